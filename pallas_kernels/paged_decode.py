"""Decode attention over pages on Hopper: one query a request, its context split among blocks.

What it computes is `pallas_kernels.paged_attention.paged_attention_reference` for blocks of one
query. A program instance reads the pages of one request, one kv head and one split with the bulk
copy engine, several steps ahead, and keeps an online softmax; a second kernel combines the splits.
Where there are more such items than instances fit the device, each takes several, and reads the
next one's pages while it is at the last of those before.

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
from pallas_kernels.decode_items import Item, items_of
from pallas_kernels.decode_loop import (
    Pages,
    Results,
    Start,
    attend_items,
    pages_scratch,
    results_scratch,
)
from pallas_kernels.online_softmax import TILE_M, check_operands, no_sums, swizzled

ROW_TILE = 8  # rows of a tile in shared memory: the least that is copied


@dataclass(frozen=True)
class TuningConfig:
    """How the work is cut.

    Attributes:
        num_splits: parts of each context, computed apart.
        num_stages: steps in flight.
        num_items: pairs of a request and a kv head that an instance takes.
        pages_per_step: pages whose scores are one product.
    """

    num_splits: int = 1
    num_stages: int = 3
    num_items: int = 1
    pages_per_step: int = 1


def choose_config(
    num_rows: int, num_kv_heads: int, max_pages: int, num_cores: int = 132
) -> TuningConfig:
    """Enough instances to fill the device, by what a bucket knows: never by real lengths.

    A context that is not split needs less shared memory: two instances fit a multiprocessor.
    """
    items = num_rows * num_kv_heads
    splits = max(1, min(num_cores // items, max_pages, 32))
    if splits > 1:
        return TuningConfig(splits, 4)
    return TuningConfig(1, 2, -(-items // (2 * num_cores)))


@partial(jax.jit, static_argnames=("group", "config", "interpret"))
def paged_decode(
    q: Float[Array, "N K rows H"],
    k_pages: Float[Array, "pages K page H"],
    v_pages: Float[Array, "pages K page H"],
    page_tables: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    *,
    config: TuningConfig,
    group: int | None = None,
    into: Float[Array, "N K G H"] | None = None,
    interpret: Any = None,
) -> Float[Array, "B K G H"] | Float[Array, "N K G H"]:
    """Softmax attention of one query a request over the first `lengths` keys of its pages.

    Args:
        q: queries, already scaled; bfloat16 or float16. The first B of them count.
        k_pages, v_pages: finite numbers also where nothing was written.
        lengths: 0 for padding, which gives zeros.
        group: G, how many of a kv head's rows are queries, the first ones; None: all.
        into: an array that the result of one split is written into, but where there are no keys.
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
    if into is not None and config.num_splits > 1:
        raise ValueError(f"one split alone can be written into an array, got {config.num_splits}")
    # in place, which a kernel does through references alone
    target = None if into is None else jax.new_ref(into)
    run = _make_kernel(q, k_pages, lengths.shape[0], config, group, interpret, target)
    results = run(q, k_pages, v_pages, page_tables, lengths)
    if target is not None:
        return jax.freeze(target)
    out, *sums = results
    if not sums:
        return out
    tops, totals = sums
    return combine_splits(out, tops, totals, group=group, dtype=q.dtype, interpret=interpret)


def padded_rows(group: int) -> int:
    """Rows that the queries of a kv head take."""
    return -(-group // ROW_TILE) * ROW_TILE


def _make_kernel(
    q: Array,
    k_pages: Array,
    num_rows: int,
    config: TuningConfig,
    group: int,
    interpret: Any,
    target: Any,
) -> Any:
    """The kernel; `target` is a reference to write the result into, or None for a new array."""
    num_kv_heads, padded, head_dim = q.shape[1:]
    keys = config.pages_per_step * k_pages.shape[2]
    kwargs = {} if interpret is None else {"interpret": interpret}
    kernel = partial(_kernel, config=config)
    out_type = out_types(num_rows, num_kv_heads, group, head_dim, q.dtype, config=config)
    if target is not None:
        kernel, out_type = partial(kernel, out_ref=target), []
    return plgpu.kernel(
        kernel,
        out_type=out_type,
        grid=grid_of(num_rows, num_kv_heads, config),
        grid_names=("instance", "split"),
        kernel_name="paged_decode",
        scratch_types={
            "q_smem": plgpu.SMEM(
                (TILE_M + (config.num_items - 1) * padded, head_dim),
                q.dtype,
                transforms=swizzled(2),
            ),
            "q_barrier": plgpu.Barrier(num_barriers=config.num_items),
            "pages": pages_scratch(
                config.num_stages,
                keys,
                head_dim,
                q.dtype,
                pages_per_step=config.pages_per_step,
                interpret=interpret,
            ),
            "results": results_scratch(config.num_splits, head_dim, q.dtype),
        },
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **kwargs,
    )


def own_items(lengths_gmem: Any, k_gmem: Any, config: TuningConfig) -> tuple[list[Item], Array]:
    """`items_of` the instance and split that a kernel is at."""
    _, num_kv_heads, page_size, _ = k_gmem.shape
    return items_of(
        lengths_gmem,
        instance=lax.axis_index("instance"),
        split=lax.axis_index("split"),
        num_kv_heads=num_kv_heads,
        num_splits=config.num_splits,
        num_items=config.num_items,
        page_size=page_size,
        pages_per_step=config.pages_per_step,
    )


def grid_of(num_rows: int, num_kv_heads: int, config: TuningConfig) -> tuple[int, int]:
    """Instances, and splits of each."""
    return -(-num_rows * num_kv_heads // config.num_items), config.num_splits


def out_types(
    num_rows: int,
    num_kv_heads: int,
    group: int,
    head_dim: int,
    dtype: Any,
    *,
    config: TuningConfig,
) -> list[jax.ShapeDtypeStruct]:
    """The result; of several splits their sums, as `combine_splits` takes them."""
    if config.num_splits == 1:
        return [jax.ShapeDtypeStruct((num_rows, num_kv_heads, group, head_dim), dtype)]
    partials = (num_rows, num_kv_heads, config.num_splits, padded_rows(group))
    shapes = ((*partials, head_dim), partials, partials)
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def _kernel(
    q_gmem: Any,  # [N, K, padded, H]
    k_gmem: Any,  # [pages, K, page, H]
    v_gmem: Any,  # [pages, K, page, H]
    tables_gmem: Any,  # [B, P]
    lengths_gmem: Any,  # [B]
    *out_gmem: Any,  # `out_types`, but for what is written into `out_ref`
    q_smem: Any,  # [64 and more, H], item after item; what else it holds does not mix in
    q_barrier: Any,
    pages: Pages,
    results: Results,
    config: TuningConfig,
    out_ref: Any = None,  # [N, K, G, H]
) -> None:
    padded = q_gmem.shape[2]
    items, total = own_items(lengths_gmem, k_gmem, config)
    for i, item in enumerate(items):
        own = q_smem.at[pl.ds(i * padded, padded)]
        plgpu.copy_gmem_to_smem(q_gmem.at[item.row, item.head], own, q_barrier.at[i])

    def begin(i: int, item: Item) -> Start:
        plgpu.barrier_wait(q_barrier.at[i])
        queries = q_smem.at[pl.ds(i * padded, TILE_M)]

        def multiply(acc_ref: Any, keys_smem: Any) -> None:
            plgpu.wgmma(acc_ref, queries, keys_smem.transpose((1, 0)))

        return Start(multiply, no_sums(q_smem.shape[1]), item.end)

    attend_items(
        items,
        total,
        k_gmem,
        v_gmem,
        tables_gmem,
        out_gmem if out_ref is None else (out_ref,),
        pages=pages,
        results=results,
        begin=begin,
        end=lambda i, item: None,
        keeps=out_ref is not None,
    )
