"""Attention of query blocks over pages on Hopper: 64 queries of one request and one head at a time.

What it computes is `pallas_kernels.paged_attention.paged_attention_reference` for blocks of 64
queries at consecutive positions. Pages that no query of a block sees are not read.

Source: Dao, FlashAttention-2, 2023.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from pallas_kernels.online_softmax import (
    TILE_M,
    PageRing,
    attend_pages,
    check_operands,
    swizzled,
)


@dataclass(frozen=True)
class TuningConfig:
    """`num_stages`: pages in flight."""

    num_stages: int = 3


@partial(jax.jit, static_argnames=("config", "interpret"))
def paged_prefill(
    q: Float[Array, "B 64 K G H"],
    k_pages: Float[Array, "pages K page H"],
    v_pages: Float[Array, "pages K page H"],
    page_tables: Int[Array, "B P"],
    starts: Int[Array, " B"],
    lengths: Int[Array, " B"],
    *,
    config: TuningConfig = TuningConfig(),
    interpret: Any = None,
) -> Float[Array, "B 64 K G H"]:
    """Softmax attention of blocks of 64 queries, causal.

    Args:
        q: queries, already scaled; bfloat16 or float16.
        k_pages, v_pages: finite numbers also where nothing was written.
        starts: position of each block's first query; its i-th query sees the keys 0 … start + i.
        lengths: queries of the block that count, the first ones; the others give anything finite.
            0 for padding, which gives zeros.
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.

    Raises:
        ValueError: a shape or type that the kernel does not take.
    """
    num_blocks, block_q, num_kv_heads, group, head_dim = q.shape
    if block_q != TILE_M:
        raise ValueError(f"blocks of {TILE_M} queries, got {block_q}")
    check_operands(q, k_pages, v_pages)
    q = (q.astype(jnp.float32) * math.log2(math.e)).astype(q.dtype)
    heads = q.reshape(num_blocks, block_q, num_kv_heads * group, head_dim)
    page_size = k_pages.shape[2]
    wide = swizzled(2)
    kwargs = {} if interpret is None else {"interpret": interpret}
    run = plgpu.kernel(
        partial(_kernel, group=group, stages=config.num_stages, via_smem=interpret is not None),
        out_type=jax.ShapeDtypeStruct(heads.shape, q.dtype),
        grid=(num_blocks, num_kv_heads * group),
        grid_names=("block", "head"),
        scratch_types=[
            plgpu.SMEM((TILE_M, head_dim), q.dtype, transforms=wide),
            plgpu.SMEM((config.num_stages, page_size, head_dim), q.dtype, transforms=wide),
            plgpu.SMEM((config.num_stages, page_size, head_dim), q.dtype, transforms=wide),
            plgpu.SMEM((TILE_M, page_size), q.dtype, transforms=wide),
            plgpu.Barrier(),
            plgpu.Barrier(num_barriers=config.num_stages),
            plgpu.Barrier(num_barriers=config.num_stages),
        ],
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **kwargs,
    )
    return run(heads, k_pages, v_pages, page_tables, starts, lengths).reshape(q.shape)


def _kernel(
    q_gmem: Any,  # [B, 64, N, H]
    k_gmem: Any,  # [pages, K, page, H]
    v_gmem: Any,  # [pages, K, page, H]
    tables_gmem: Any,  # [B, P]
    starts_gmem: Any,  # [B]
    lengths_gmem: Any,  # [B]
    out_gmem: Any,  # [B, 64, N, H]
    tile_smem: Any,  # [64, H], the queries, then the result
    k_smem: Any,  # [stages, page, H]
    v_smem: Any,  # [stages, page, H]
    p_smem: Any,  # [64, page]
    q_barrier: Any,
    k_barrier: Any,
    v_barrier: Any,
    *,
    group: int,
    stages: int,
    via_smem: bool,
) -> None:
    block, head = lax.axis_index("block"), lax.axis_index("head")
    kv_head = lax.div(head, jnp.int32(group))
    page_size = k_gmem.shape[2]
    layout = plgpu.Layout.WGMMA
    start, length = starts_gmem[block], lengths_gmem[block]
    num_pages = lax.div(start + length + (page_size - 1), jnp.int32(page_size))
    count = jnp.where(length > 0, num_pages, 0)

    plgpu.copy_gmem_to_smem(q_gmem.at[block, :, head], tile_smem, q_barrier)

    def fetch(i: Any, stage: Any) -> None:
        page = tables_gmem[block, i]
        plgpu.copy_gmem_to_smem(k_gmem.at[page, kv_head], k_smem.at[stage], k_barrier.at[stage])
        plgpu.copy_gmem_to_smem(v_gmem.at[page, kv_head], v_smem.at[stage], v_barrier.at[stage])

    def visible(i: Array, shape: tuple[int, ...]) -> Array:
        rows = plgpu.broadcasted_iota(jnp.int32, shape, 0, layout=layout)
        keys = plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=layout)
        return keys + i * page_size <= rows + start

    plgpu.barrier_wait(q_barrier)
    ring = PageRing(k_smem, v_smem, k_barrier, v_barrier, stages, fetch)
    ring.begin(count)
    acc, _, total = attend_pages(tile_smem, ring, count, visible, p_smem if via_smem else None)
    total = lax.broadcast_in_dim(jnp.maximum(total, 1e-30), acc.shape, [0])
    tile_smem[...] = (acc / total).astype(tile_smem.dtype)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(tile_smem, out_gmem.at[block, :, head])
    plgpu.wait_smem_to_gmem(0)
