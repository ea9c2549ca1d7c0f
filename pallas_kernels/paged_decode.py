"""Decode attention over pages on Hopper: one query a request, its context split among blocks.

What it computes is `pallas_kernels.paged_attention.paged_attention_reference` for blocks of one
query. A program instance reads the pages of one request, one kv head and one split with the bulk
copy engine, several pages ahead, and keeps an online softmax; a second kernel combines the splits.

Source: Dao et al., Flash-Decoding, 2023.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from pallas_kernels.combine_splits import combine_splits
from pallas_kernels.online_softmax import (
    TILE_M,
    Sums,
    check_operands,
    hide,
    no_sums,
    product,
    softmax_step,
    spread,
    swizzled,
)

ROW_TILE = 8  # rows of a tile in shared memory: the least that is copied


@dataclass(frozen=True)
class TuningConfig:
    """How the work is cut.

    Attributes:
        num_splits: parts of each context, computed apart.
        num_stages: pages in flight.
    """

    num_splits: int = 1
    num_stages: int = 3


def choose_config(
    num_rows: int, num_kv_heads: int, max_pages: int, num_cores: int = 132
) -> TuningConfig:
    """Enough instances to fill the device, by what a bucket knows: never by real lengths.

    A context that is not split needs less shared memory: two instances fit a multiprocessor.
    """
    wanted = num_cores // max(1, num_rows * num_kv_heads)
    splits = max(1, min(wanted, max_pages, 32))
    return TuningConfig(splits, 2 if splits == 1 else 5)


@partial(jax.jit, static_argnames=("group", "config", "interpret"))
def paged_decode(
    q: Float[Array, "B K rows H"],
    k_pages: Float[Array, "pages K page H"],
    v_pages: Float[Array, "pages K page H"],
    page_tables: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    *,
    config: TuningConfig,
    group: int | None = None,
    interpret: Any = None,
) -> Float[Array, "B K G H"]:
    """Softmax attention of one query a request over the first `lengths` keys of its pages.

    Args:
        q: queries, already scaled; bfloat16 or float16.
        k_pages, v_pages: finite numbers also where nothing was written.
        lengths: 0 for padding, which gives zeros.
        group: G, how many of a kv head's rows are queries, the first ones; None: all.
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.

    Raises:
        ValueError: a shape or type that the kernel does not take.
    """
    group = group or q.shape[2]
    if group > 16:
        raise ValueError(f"a group of at most 16 heads, got {group}")
    check_operands(q, k_pages, v_pages)
    padding = padded_rows(q.shape[2]) - q.shape[2]
    q = jnp.pad(q, ((0, 0), (0, 0), (0, padding), (0, 0)))
    run = _make_kernel(q, k_pages, config, group, interpret)
    out, *sums = run(q, k_pages, v_pages, page_tables, lengths)
    if not sums:
        return out
    tops, totals = sums
    return combine_splits(out, tops, totals, group=group, dtype=q.dtype, interpret=interpret)


def padded_rows(group: int) -> int:
    """Rows that the queries of a kv head take."""
    return -(-group // ROW_TILE) * ROW_TILE


def _make_kernel(q: Array, k_pages: Array, config: TuningConfig, group: int, interpret: Any) -> Any:
    num_rows, num_kv_heads, padded, head_dim = q.shape
    page_size = k_pages.shape[2]
    splits, stages = config.num_splits, config.num_stages
    wide, wide32 = swizzled(2), swizzled(4)
    kwargs = {} if interpret is None else {"interpret": interpret}
    scratch: dict[str, Any] = {
        "q_smem": plgpu.SMEM((TILE_M, head_dim), q.dtype, transforms=wide),
        "k_smem": plgpu.SMEM((stages, page_size, head_dim), q.dtype, transforms=wide),
        "v_smem": plgpu.SMEM((stages, page_size, head_dim), q.dtype, transforms=wide),
        "q_barrier": plgpu.Barrier(),
        "k_barrier": plgpu.Barrier(num_barriers=stages),
        "v_barrier": plgpu.Barrier(num_barriers=stages),
    }
    if interpret is not None:
        scratch["p_smem"] = plgpu.SMEM((TILE_M, page_size), q.dtype, transforms=wide)
    out_type = [jax.ShapeDtypeStruct((num_rows, num_kv_heads, group, head_dim), q.dtype)]
    if splits == 1:
        scratch["out_smem"] = plgpu.SMEM((TILE_M, head_dim), q.dtype)  # G rows need not be tiles
    else:
        partials = (num_rows, num_kv_heads, splits, padded)
        out_type = [
            jax.ShapeDtypeStruct((*partials, head_dim), jnp.float32),
            jax.ShapeDtypeStruct(partials, jnp.float32),
            jax.ShapeDtypeStruct(partials, jnp.float32),
        ]
        scratch["sums_smem"] = (
            plgpu.SMEM((TILE_M, head_dim), jnp.float32, transforms=wide32),
            plgpu.SMEM((TILE_M,), jnp.float32),
            plgpu.SMEM((TILE_M,), jnp.float32),
        )
    return plgpu.kernel(
        partial(_kernel, num_splits=splits),
        out_type=out_type,
        grid=(num_rows, num_kv_heads, splits),
        grid_names=("row", "head", "split"),
        kernel_name="paged_decode",
        scratch_types=scratch,
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **kwargs,
    )


def _kernel(
    q_gmem: Any,  # [B, K, padded, H]
    k_gmem: Any,  # [pages, K, page, H]
    v_gmem: Any,  # [pages, K, page, H]
    tables_gmem: Any,  # [B, P]
    lengths_gmem: Any,  # [B]
    out_gmem: Any,  # [B, K, G, H]; of several splits: [B, K, splits, padded, H] float32
    *sums_gmem: Any,  # of several splits: top and total, [B, K, splits, padded] float32
    q_smem: Any,  # [64, H]; rows past `padded` hold anything: rows do not mix
    k_smem: Any,  # [stages, page, H]
    v_smem: Any,  # [stages, page, H]
    q_barrier: Any,
    k_barrier: Any,
    v_barrier: Any,
    out_smem: Any = None,  # [64, H]
    sums_smem: Any = (),  # of several splits: [64, H], [64], [64], float32
    p_smem: Any = None,  # [64, page] to pass the weights through, which the interpreter needs
    num_splits: int,
) -> None:
    row, head = lax.axis_index("row"), lax.axis_index("head")
    split = lax.axis_index("split")
    padded = q_gmem.shape[2]
    page_size = k_gmem.shape[2]
    stages = k_smem.shape[0]

    length = lengths_gmem[row]
    num_pages = lax.div(length + (page_size - 1), jnp.int32(page_size))
    each = lax.div(num_pages + (num_splits - 1), jnp.int32(num_splits))
    first = split * each
    count = jnp.clip(num_pages - first, 0, each)

    plgpu.copy_gmem_to_smem(q_gmem.at[row, head], q_smem.at[pl.ds(0, padded)], q_barrier)

    def fetch(i: Any, stage: Any) -> None:
        page = tables_gmem[row, first + i]
        plgpu.copy_gmem_to_smem(k_gmem.at[page, head], k_smem.at[stage], k_barrier.at[stage])
        plgpu.copy_gmem_to_smem(v_gmem.at[page, head], v_smem.at[stage], v_barrier.at[stage])

    for stage in range(stages):

        @pl.when(stage < count)
        def _(stage: int = stage) -> None:
            fetch(stage, stage)

    def attend(i: Array, sums: Sums) -> Sums:
        stage = lax.rem(i, jnp.int32(stages))
        plgpu.barrier_wait(k_barrier.at[stage])

        def multiply_keys(acc_ref: Any) -> Array:
            plgpu.wgmma(acc_ref, q_smem, k_smem.at[stage].transpose((1, 0)))
            return acc_ref[...]

        scores = product(multiply_keys, (TILE_M, page_size))
        scores = hide(scores, lambda _, key: key + (first + i) * page_size >= length)
        weights, shrink, top, total = softmax_step(scores, sums)
        narrow = weights.astype(q_smem.dtype)
        if p_smem is not None:
            p_smem[...] = narrow
            plgpu.commit_smem()
        plgpu.barrier_wait(v_barrier.at[stage])

        def multiply_values(acc_ref: Any) -> Array:
            plgpu.wgmma(acc_ref, narrow if p_smem is None else p_smem, v_smem.at[stage])
            return acc_ref[...]

        mixed = product(multiply_values, sums.acc.shape)

        @pl.when(i + stages < count)
        def _() -> None:
            fetch(i + stages, stage)

        return Sums(sums.acc * spread(shrink, mixed.shape) + mixed, top, total)

    plgpu.barrier_wait(q_barrier)
    sums = lax.fori_loop(0, count, attend, no_sums(q_smem.shape[1]))
    if num_splits > 1:
        used = pl.ds(0, padded)
        for value, smem, gmem in zip(sums, sums_smem, (out_gmem, *sums_gmem), strict=True):
            smem[...] = value
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(smem.at[used], gmem.at[row, head, split])
    else:
        total = spread(jnp.maximum(sums.total, 1e-30), sums.acc.shape)
        out_smem[...] = (sums.acc / total).astype(out_smem.dtype)
        plgpu.commit_smem()
        group = pl.ds(0, out_gmem.shape[2])
        plgpu.copy_smem_to_gmem(out_smem.at[group], out_gmem.at[row, head])
    plgpu.wait_smem_to_gmem(0)
