"""Attention of query blocks over pages on Hopper: warpgroups that share each page they load.

What it computes is `pallas_kernels.paged_attention.paged_attention_reference` for blocks of 64
queries at consecutive positions. Pages that no query of a block sees are not read.

A program instance has one warpgroup that copies pages into a ring in shared memory and two or
three that compute, each a tile of 64 queries of one head. The heads of a group see the same keys,
so consecutive tiles (`page_sharing.share_pages`) attend to one stream of pages:

* 64 rows are the height of a matrix instruction; their result, 64 × 128 in float32, takes 64
  registers of a thread, as do the scores of 128 keys, half as many for the weights: two computing
  warpgroups have 232 registers a thread, three have 160 and take 64 keys at a time.
* A page of keys and values is read once for 2 × 64 or 3 × 64 rows: 128 or 192 operations a byte,
  4 or 2.6 TB/s from the L2 cache at 500 TFLOP/s.
* Two warpgroups take turns: one multiplies while the other one exponentiates.

Sources: Dao, FlashAttention-2, 2023; Shah et al., FlashAttention-3, 2024.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from pallas_kernels.online_softmax import TILE_M, check_operands, swizzled
from pallas_kernels.page_sharing import same_pages, share_pages
from pallas_kernels.prefill_warpgroups import prefill_kernel


@dataclass(frozen=True)
class TuningConfig:
    """How a program instance is built.

    Attributes:
        num_consumers: warpgroups that compute, 2 or 3.
        pages_per_step: pages of one step.
        num_stages: steps in flight.
        take_turns: whether the consumers multiply one after the other.

    Raises:
        ValueError: another number of consumers, or a ring of less than 2 stages.
    """

    num_consumers: int = 2
    pages_per_step: int = 2
    num_stages: int = 2
    take_turns: bool = True

    def __post_init__(self) -> None:
        if self.num_consumers not in (2, 3):
            raise ValueError(f"num_consumers must be 2 or 3, got {self.num_consumers}")
        if self.num_stages < 2:
            raise ValueError(f"num_stages must be at least 2, got {self.num_stages}")


@partial(jax.jit, static_argnames=("group", "config", "interpret"))
def paged_prefill(
    q: Float[Array, "B 64 K rows H"],
    k_pages: Float[Array, "pages K page H"],
    v_pages: Float[Array, "pages K page H"],
    page_tables: Int[Array, "B P"],
    starts: Int[Array, " B"],
    lengths: Int[Array, " B"],
    *,
    first_page: int | Array = 0,
    group: int | None = None,
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
        first_page: the one that the tables call 0. Tables and lengths that are the same in all
            layers are looked into once.
        group: G, how many of a kv head's rows are queries, the first ones; None: all.
        config: nothing that the result depends on, but for rounding.
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.

    Raises:
        ValueError: a shape or type that the kernel does not take.
    """
    num_blocks, block_q, num_kv_heads, rows, head_dim = q.shape
    group = group or rows
    if block_q != TILE_M:
        raise ValueError(f"blocks of {TILE_M} queries, got {block_q}")
    check_operands(q, k_pages, v_pages)
    page_size = k_pages.shape[2]
    num_pages = (starts + lengths + (page_size - 1)) // page_size
    shares = share_pages(
        jnp.where(lengths > 0, num_pages, 0),
        same_pages(page_tables),
        group=group,
        num_consumers=config.num_consumers,
        pages_per_step=config.pages_per_step,
    )
    heads = q.reshape(num_blocks, block_q, num_kv_heads * rows, head_dim)
    run = _make_kernel(heads, k_pages, config, group, shares.first.shape[0], interpret)
    first = jnp.asarray(first_page, jnp.int32).reshape(1)
    out = run(heads, k_pages, v_pages, page_tables, first, starts, *shares)
    return out.reshape(num_blocks, block_q, num_kv_heads, group, head_dim)


def _make_kernel(
    heads: Array, k_pages: Array, config: TuningConfig, group: int, instances: int, interpret: Any
) -> Any:
    num_kv_heads, page_size, head_dim = k_pages.shape[1:]
    out_shape = (*heads.shape[:2], num_kv_heads * group, head_dim)
    consumers, stages = config.num_consumers, config.num_stages
    keys = config.pages_per_step * page_size
    wide = swizzled(2)
    scratch: dict[str, Any] = {
        "tile_smem": plgpu.SMEM((consumers, TILE_M, head_dim), heads.dtype, transforms=wide),
        "k_smem": plgpu.SMEM((stages, keys, head_dim), heads.dtype, transforms=wide),
        "v_smem": plgpu.SMEM((stages, keys, head_dim), heads.dtype, transforms=wide),
        "q_barrier": plgpu.Barrier(num_barriers=consumers),
        "k_full": plgpu.Barrier(num_arrivals=config.pages_per_step, num_barriers=stages),
        "v_full": plgpu.Barrier(num_arrivals=config.pages_per_step, num_barriers=stages),
        "k_free": plgpu.Barrier(num_arrivals=consumers, num_barriers=stages),
        "v_free": plgpu.Barrier(num_arrivals=consumers, num_barriers=stages),
    }
    if config.take_turns:
        scratch["turn"] = plgpu.Barrier(num_barriers=consumers)
    if interpret is not None:
        scratch["p_smem"] = plgpu.SMEM((consumers, TILE_M, keys), heads.dtype, transforms=wide)
    kwargs = {} if interpret is None else {"interpret": interpret}
    return plgpu.kernel(
        partial(prefill_kernel, group=group),
        out_type=jax.ShapeDtypeStruct(out_shape, heads.dtype),
        # the last dimension runs fastest: neighbours read other heads' pages of one context
        grid=(instances, num_kv_heads),
        grid_names=("instance", "kv_head"),
        kernel_name="paged_prefill",
        num_threads=consumers + 1,
        thread_name="warpgroup",
        scratch_types=scratch,
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **kwargs,
    )
