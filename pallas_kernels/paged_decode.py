"""Decode attention over pages on Hopper: one query a request, its context split among blocks.

What it computes is `pallas_kernels.paged_attention.paged_attention_reference` for blocks of one
query. A program instance reads the pages of one request, one kv head and one split with the bulk
copy engine, several pages ahead, and keeps an online softmax; XLA combines the splits.

Source: Dao et al., Flash-Decoding, 2023.
"""

import math
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from pallas_kernels.online_softmax import (
    TILE_M,
    PageRing,
    attend_pages,
    check_operands,
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
    return TuningConfig(splits, 3 if splits == 1 else 5)


@partial(jax.jit, static_argnames=("config", "interpret"))
def paged_decode(
    q: Float[Array, "B K G H"],
    k_pages: Float[Array, "pages K page H"],
    v_pages: Float[Array, "pages K page H"],
    page_tables: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    *,
    config: TuningConfig,
    interpret: Any = None,
) -> Float[Array, "B K G H"]:
    """Softmax attention of one query a request over the first `lengths` keys of its pages.

    Args:
        q: queries, already scaled; bfloat16 or float16.
        k_pages, v_pages: finite numbers also where nothing was written.
        lengths: 0 for padding, which gives zeros.
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.

    Raises:
        ValueError: a shape or type that the kernel does not take.
    """
    num_rows, num_kv_heads, group, head_dim = q.shape
    if group > 16:
        raise ValueError(f"a group of at most 16 heads, got {group}")
    check_operands(q, k_pages, v_pages)
    # scores in powers of two: exp2 is an instruction, exp is not
    q = (q.astype(jnp.float32) * math.log2(math.e)).astype(q.dtype)
    padded = -(-group // ROW_TILE) * ROW_TILE
    q = jnp.pad(q, ((0, 0), (0, 0), (0, padded - group), (0, 0)))
    out, *sums = _make_kernel(q, k_pages, config, interpret)(
        q, k_pages, v_pages, page_tables, lengths
    )
    if sums:
        out = _combine(out, *sums).astype(q.dtype)
    return out[:, :, :group]


def _combine(
    out: Float[Array, "B K splits G H"],
    tops: Float[Array, "B K splits G"],
    totals: Float[Array, "B K splits G"],
) -> Float[Array, "B K G H"]:
    """The splits' sums as one. Without reductions, so that XLA makes one kernel of it, not four."""
    splits = range(out.shape[2])
    top = reduce(jnp.maximum, [tops[:, :, i] for i in splits])
    shrinks = [jnp.exp2(tops[:, :, i] - top) for i in splits]
    total = sum(shrinks[i] * totals[:, :, i] for i in splits)
    mixed = sum(shrinks[i][..., None] * out[:, :, i] for i in splits)
    return mixed / jnp.maximum(total, 1e-30)[..., None]


def _make_kernel(q: Array, k_pages: Array, config: TuningConfig, interpret: Any) -> Any:
    num_rows, num_kv_heads, padded, head_dim = q.shape
    page_size = k_pages.shape[2]
    splits, stages = config.num_splits, config.num_stages
    wide, wide32 = swizzled(2), swizzled(4)
    via_smem = interpret is not None
    out_type = [jax.ShapeDtypeStruct(q.shape, q.dtype)]
    # the result leaves through the memory of the queries, which are not needed by then
    results: list[Any] = []
    if splits > 1:
        partials = (num_rows, num_kv_heads, splits, padded)
        out_type = [
            jax.ShapeDtypeStruct((*partials, head_dim), jnp.float32),
            jax.ShapeDtypeStruct(partials, jnp.float32),
            jax.ShapeDtypeStruct(partials, jnp.float32),
        ]
        results = [
            plgpu.SMEM((TILE_M, head_dim), jnp.float32, transforms=wide32),
            plgpu.SMEM((TILE_M,), jnp.float32),
            plgpu.SMEM((TILE_M,), jnp.float32),
        ]
    weights = [plgpu.SMEM((TILE_M, page_size), q.dtype, transforms=wide)] if via_smem else []
    kwargs = {"interpret": interpret} if via_smem else {}
    return plgpu.kernel(
        partial(_kernel, config=config, via_smem=via_smem),
        out_type=out_type,
        grid=(num_rows, num_kv_heads, splits),
        grid_names=("row", "head", "split"),
        scratch_types=[
            plgpu.SMEM((TILE_M, head_dim), q.dtype, transforms=wide),
            plgpu.SMEM((stages, page_size, head_dim), q.dtype, transforms=wide),
            plgpu.SMEM((stages, page_size, head_dim), q.dtype, transforms=wide),
            plgpu.Barrier(),
            plgpu.Barrier(num_barriers=stages),
            plgpu.Barrier(num_barriers=stages),
            results,
            weights,
        ],
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **kwargs,
    )


def _kernel(
    q_gmem: Any,  # [B, K, padded, H]
    k_gmem: Any,  # [pages, K, page, H]
    v_gmem: Any,  # [pages, K, page, H]
    tables_gmem: Any,  # [B, P]
    lengths_gmem: Any,  # [B]
    *refs: Any,
    config: TuningConfig,
    via_smem: bool,
) -> None:
    """`refs`: the outputs, then the scratch memory.

    Outputs of one split: out [B, K, padded, H]; of several, float32: out [B, K, splits, padded, H],
    highest scores and sums of weights [B, K, splits, padded].
    """
    num_outputs = 1 if config.num_splits == 1 else 3
    outputs, scratch = refs[:num_outputs], refs[num_outputs:]
    # q [64, H], its rows past `padded` hold anything: rows do not mix; k, v [stages, page, H]
    q_smem, k_smem, v_smem, q_barrier, k_barrier, v_barrier, results, weights = scratch
    row, head = lax.axis_index("row"), lax.axis_index("head")
    split = lax.axis_index("split")
    padded = q_gmem.shape[2]
    page_size = k_gmem.shape[2]

    plgpu.copy_gmem_to_smem(q_gmem.at[row, head], q_smem.at[pl.ds(0, padded)], q_barrier)
    length = lengths_gmem[row]
    num_pages = lax.div(length + (page_size - 1), jnp.int32(page_size))
    each = lax.div(num_pages + (config.num_splits - 1), jnp.int32(config.num_splits))
    first = split * each
    count = jnp.clip(num_pages - first, 0, each)

    def fetch(i: Any, stage: Any) -> None:
        page = tables_gmem[row, first + i]
        plgpu.copy_gmem_to_smem(k_gmem.at[page, head], k_smem.at[stage], k_barrier.at[stage])
        plgpu.copy_gmem_to_smem(v_gmem.at[page, head], v_smem.at[stage], v_barrier.at[stage])

    ring = PageRing(k_smem, v_smem, k_barrier, v_barrier, config.num_stages, fetch)
    ring.begin(count)
    plgpu.barrier_wait(q_barrier)
    acc, top, total = attend_pages(
        q_smem,
        ring,
        count,
        lambda i, shape: (
            plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=plgpu.Layout.WGMMA)
            + (first + i) * page_size
            < length
        ),
        weights[0] if via_smem else None,
    )
    used = pl.ds(0, padded)
    if config.num_splits == 1:
        share = lax.broadcast_in_dim(1 / jnp.maximum(total, 1e-30), acc.shape, [0])
        q_smem[...] = (acc * share).astype(q_smem.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_smem.at[used], outputs[0].at[row, head])
    else:
        for smem, value, gmem in zip(results, (acc, top, total), outputs, strict=True):
            smem[...] = value
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(smem.at[used], gmem.at[row, head, split])
    plgpu.wait_smem_to_gmem(0)
