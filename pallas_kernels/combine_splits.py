"""The end of split attention on Hopper: the splits' sums as one, in one kernel.

XLA makes two to four kernels of it, of which the larger takes 3 µs for 16 splits.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

WARPGROUP = 128  # threads


def combine_splits_reference(
    out: Float[Array, "B K splits R H"],
    tops: Float[Array, "B K splits R"],
    totals: Float[Array, "B K splits R"],
    *,
    group: int,
    dtype: Any,
) -> Float[Array, "B K G H"]:
    """Weighs each split's sums by its highest score, a power of two; of the first G of R rows."""
    out, tops, totals = out[..., :group, :], tops[..., :group], totals[..., :group]
    shrink = jnp.exp2(tops - tops.max(axis=2, keepdims=True))
    total = jnp.maximum((totals * shrink).sum(axis=2), 1e-30)
    return ((out * shrink[..., None]).sum(axis=2) / total[..., None]).astype(dtype)


def combine_splits(
    out: Float[Array, "B K splits R H"],
    tops: Float[Array, "B K splits R"],
    totals: Float[Array, "B K splits R"],
    *,
    group: int,
    dtype: Any,
    interpret: Any = None,
) -> Float[Array, "B K G H"]:
    """`combine_splits_reference` by the kernel, or by XLA if H is no multiple of 128."""
    num_rows, num_kv_heads, _, _, head_dim = out.shape
    if head_dim % WARPGROUP:
        return combine_splits_reference(out, tops, totals, group=group, dtype=dtype)
    kwargs = {} if interpret is None else {"interpret": interpret}
    combined: Array = plgpu.kernel(
        _kernel,
        out_type=jax.ShapeDtypeStruct((num_rows, num_kv_heads, group, head_dim), dtype),
        grid=(num_rows, num_kv_heads, group),
        grid_names=("row", "head", "query"),
        kernel_name="combine_splits",
        **kwargs,
    )(out, tops, totals)
    return combined


def _kernel(
    out_gmem: Any,  # [B, K, splits, R, H]
    tops_gmem: Any,  # [B, K, splits, R]
    totals_gmem: Any,  # [B, K, splits, R]
    combined_gmem: Any,  # [B, K, G, H]
) -> None:
    row, head, query = (lax.axis_index(name) for name in ("row", "head", "query"))
    head_dim = out_gmem.shape[4]
    layout = plgpu.Layout.WG_STRIDED((head_dim,), vec_size=1)
    # unrolled, so that all reads are on their way at once
    splits = range(out_gmem.shape[2])
    tops = [tops_gmem[row, head, i, query] for i in splits]
    totals = [totals_gmem[row, head, i, query] for i in splits]
    parts = [plgpu.load(out_gmem.at[row, head, i, query], layout=layout) for i in splits]
    top = tops[0]
    for other in tops[1:]:
        top = jnp.maximum(top, other)
    shrinks = [jnp.exp2(own - top) for own in tops]
    total = shrinks[0] * totals[0]
    mixed = parts[0] * shrinks[0]
    for shrink, own, part in zip(shrinks[1:], totals[1:], parts[1:], strict=True):
        total = total + shrink * own
        mixed = mixed + part * shrink
    mixed = mixed * (1 / jnp.maximum(total, 1e-30))
    combined_gmem[row, head, query] = mixed.astype(combined_gmem.dtype)
