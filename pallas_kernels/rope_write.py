"""What stands between a layer's first product and its attention, as one kernel on Hopper.

Bias, rotation, the scale of the queries, and the write of keys and values into their pages: XLA
makes three to five kernels of it, 5 µs a layer at one row and 12 µs at 128 (docs/performance.md).
"""

from functools import partial
from typing import Any

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from pallas_kernels.head_rotation import load_angles, spread_angles, takes_heads, turn_heads


@partial(jax.jit, static_argnames=("rows", "interpret"))
def rope_write(
    terms: Float[Array, "terms T K G+2 H"],
    bias: Float[Array, "K G+2 H"],
    rope: tuple[Float[Array, "T H/2"], Float[Array, "T H/2"]],
    k_pages: Float[Array, "pages K page H"],
    v_pages: Float[Array, "pages K page H"],
    page_ids: Int[Array, " T"],
    offsets: Int[Array, " T"],
    *,
    rows: int,
    interpret: Any = None,
) -> tuple[
    Float[Array, "T K rows H"], Float[Array, "pages K page H"], Float[Array, "pages K page H"]
]:
    """Rotated, scaled queries, and the pages with the tokens' keys and values in them.

    Args:
        terms: sum up to a kv head's G queries, its key and its value.
        rope: cosine and sine of every token's angles.
        page_ids: -1 for padding, whose keys and values are written nowhere.
        rows: queries of a kv head in the result, of which those past G hold anything.
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.

    Returns:
        queries in the type of the pages, the pages; NaN and inf among keys and values become 0.

    Raises:
        ValueError: heads that the kernel does not take.
    """
    num_terms, num_tokens, num_kv_heads, own_heads, head_dim = terms.shape
    num_heads = num_kv_heads * own_heads
    if not takes_heads(num_heads=num_heads, head_dim=head_dim):
        raise ValueError(f"{num_heads} heads of {head_dim} are not what the kernel takes")
    half = head_dim // 2
    cos, sin = (spread_angles(x, num_heads) for x in rope)
    dtype = k_pages.dtype
    # written in place, which a kernel does through references alone
    k_ref, v_ref = jax.new_ref(k_pages), jax.new_ref(v_pages)
    kwargs = {} if interpret is None else {"interpret": interpret}
    q = plgpu.kernel(
        partial(_kernel, k_gmem=k_ref, v_gmem=v_ref, group=own_heads - 2),
        out_type=jax.ShapeDtypeStruct((num_tokens, num_kv_heads, rows, head_dim), dtype),
        grid=(num_tokens,),
        grid_names=("token",),
        kernel_name="rope_write",
        scratch_types={
            "in_smem": [plgpu.SMEM((num_terms, num_heads, half), terms.dtype) for _ in range(2)],
            "bias_smem": [plgpu.SMEM((num_heads, half), bias.dtype) for _ in range(2)],
            "out_smem": [plgpu.SMEM((num_heads, half), dtype) for _ in range(2)],
            "barrier": plgpu.Barrier(num_arrivals=4),
        },
        **kwargs,
    )(
        terms.reshape(num_terms, num_tokens, num_heads, head_dim),
        bias.reshape(num_heads, head_dim),
        cos,
        sin,
        page_ids,
        offsets,
    )
    return q, jax.freeze(k_ref), jax.freeze(v_ref)


def _kernel(
    terms_gmem: Any,  # [terms, T, N, H], N heads of all kinds
    bias_gmem: Any,  # [N, H]
    cos_gmem: Any,  # [T, at once, H / 2]
    sin_gmem: Any,  # [T, at once, H / 2]
    pages_gmem: Any,  # [T]
    offsets_gmem: Any,  # [T]
    q_gmem: Any,  # [T, K, rows, H]
    *,
    k_gmem: Any,  # [pages, K, page, H]
    v_gmem: Any,  # [pages, K, page, H]
    in_smem: Any,  # [terms, N, H / 2] twice: the halves of each head
    bias_smem: Any,  # [N, H / 2] twice, as the next
    out_smem: Any,
    barrier: Any,
    group: int,
) -> None:
    token = lax.axis_index("token")
    num_heads, half = bias_smem[0].shape
    halves = [pl.ds(0, half), pl.ds(half, half)]
    for i in range(2):
        plgpu.copy_gmem_to_smem(terms_gmem.at[:, token, :, halves[i]], in_smem[i], barrier)
        plgpu.copy_gmem_to_smem(bias_gmem.at[:, halves[i]], bias_smem[i], barrier)
    angles = load_angles(cos_gmem.at[token], sin_gmem.at[token], num_heads)
    page, offset = pages_gmem[token], offsets_gmem[token]
    plgpu.barrier_wait(barrier)
    turn_heads(in_smem, bias_smem, out_smem, angles, group=group)
    plgpu.commit_smem()
    for kv_head in range(q_gmem.shape[1]):
        own = kv_head * (group + 2)
        for smem, where in zip(out_smem, halves, strict=True):
            queries = q_gmem.at[token, kv_head, pl.ds(0, group), where]
            plgpu.copy_smem_to_gmem(smem.at[pl.ds(own, group)], queries)

            @pl.when(page >= 0)
            def _(smem: Any = smem, where: Any = where, kv_head: int = kv_head) -> None:
                own = kv_head * (group + 2)
                for gmem, head in ((k_gmem, own + group), (v_gmem, own + group + 1)):
                    plgpu.copy_smem_to_gmem(smem.at[head], gmem.at[page, kv_head, offset, where])

    plgpu.wait_smem_to_gmem(0)
