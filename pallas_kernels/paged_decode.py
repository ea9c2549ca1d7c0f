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
from pallas_kernels.decode_items import Item, items_of, pages_of
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
        return TuningConfig(splits, 5)
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
    page_size = k_pages.shape[2]
    splits, stages, items = config.num_splits, config.num_stages, config.num_items
    keys = config.pages_per_step * page_size
    arrivals = config.pages_per_step
    wide, wide32 = swizzled(2), swizzled(4)
    kwargs = {} if interpret is None else {"interpret": interpret}
    scratch: dict[str, Any] = {
        "q_smem": plgpu.SMEM((TILE_M + (items - 1) * padded, head_dim), q.dtype, transforms=wide),
        "k_smem": plgpu.SMEM((stages, keys, head_dim), q.dtype, transforms=wide),
        "v_smem": plgpu.SMEM((stages, keys, head_dim), q.dtype, transforms=wide),
        "q_barrier": plgpu.Barrier(num_barriers=items),
        "k_barrier": plgpu.Barrier(num_arrivals=arrivals, num_barriers=stages),
        "v_barrier": plgpu.Barrier(num_arrivals=arrivals, num_barriers=stages),
    }
    if interpret is not None:
        scratch["p_smem"] = plgpu.SMEM((TILE_M, keys), q.dtype, transforms=wide)
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
    kernel = partial(_kernel, config=config)
    if target is not None:
        kernel, out_type = partial(kernel, out_gmem=target, keeps=True), []
    return plgpu.kernel(
        kernel,
        out_type=out_type,
        grid=(-(-num_rows * num_kv_heads // items), splits),
        grid_names=("instance", "split"),
        kernel_name="paged_decode",
        scratch_types=scratch,
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **kwargs,
    )


def _kernel(
    q_gmem: Any,  # [N, K, padded, H]
    k_gmem: Any,  # [pages, K, page, H]
    v_gmem: Any,  # [pages, K, page, H]
    tables_gmem: Any,  # [B, P]
    lengths_gmem: Any,  # [B]
    out_gmem: Any,  # [B or N, K, G, H]; of several splits: [B, K, splits, padded, H] float32
    *sums_gmem: Any,  # of several splits: top and total, [B, K, splits, padded] float32
    q_smem: Any,  # [64 and more, H], item after item; what else it holds does not mix in
    k_smem: Any,  # [stages, keys, H]
    v_smem: Any,  # [stages, keys, H]
    q_barrier: Any,
    k_barrier: Any,
    v_barrier: Any,
    out_smem: Any = None,  # [64, H]
    sums_smem: Any = (),  # of several splits: [64, H], [64], [64], float32
    p_smem: Any = None,  # [64, keys] to pass the weights through, which the interpreter needs
    config: TuningConfig,
    keeps: bool = False,  # whether what stands in `out_gmem` stays where there are no keys
) -> None:
    split = lax.axis_index("split")
    num_kv_heads, padded = q_gmem.shape[1:3]
    page_size = k_gmem.shape[2]
    stages, keys = k_smem.shape[:2]
    items, total = items_of(
        lengths_gmem,
        instance=lax.axis_index("instance"),
        split=split,
        num_kv_heads=num_kv_heads,
        num_splits=config.num_splits,
        num_items=config.num_items,
        page_size=page_size,
        pages_per_step=config.pages_per_step,
    )
    queries = [q_smem.at[pl.ds(i * padded, TILE_M)] for i in range(config.num_items)]
    for i, item in enumerate(items):
        own = q_smem.at[pl.ds(i * padded, padded)]
        plgpu.copy_gmem_to_smem(q_gmem.at[item.row, item.head], own, q_barrier.at[i])

    def fetch(step: Any, stage: Any) -> None:
        row, head, places = pages_of(items, step, config.pages_per_step)
        for i, place in enumerate(places):
            page, part = tables_gmem[row, place], pl.ds(i * page_size, page_size)
            for gmem, smem, barrier in ((k_gmem, k_smem, k_barrier), (v_gmem, v_smem, v_barrier)):
                plgpu.copy_gmem_to_smem(
                    gmem.at[page, head], smem.at[stage, part], barrier.at[stage]
                )

    for stage in range(stages):

        @pl.when(stage < total)
        def _(stage: int = stage) -> None:
            fetch(stage, stage)

    def attend(item: Item, q_smem: Any, i: Array, sums: Sums) -> Sums:
        stage = lax.rem(item.start + i, jnp.int32(stages))
        plgpu.barrier_wait(k_barrier.at[stage])

        def multiply_keys(acc_ref: Any) -> Array:
            plgpu.wgmma(acc_ref, q_smem, k_smem.at[stage].transpose((1, 0)))
            return acc_ref[...]

        scores = product(multiply_keys, (TILE_M, keys))
        begin = item.first * page_size + i * keys
        scores = hide(scores, lambda _, key: begin + key >= item.end)
        weights, shrink, top, weight = softmax_step(scores, sums)
        narrow = weights.astype(q_smem.dtype)
        if p_smem is not None:
            p_smem[...] = narrow
            plgpu.commit_smem()
        plgpu.barrier_wait(v_barrier.at[stage])

        def multiply_values(acc_ref: Any) -> Array:
            plgpu.wgmma(acc_ref, narrow if p_smem is None else p_smem, v_smem.at[stage])
            return acc_ref[...]

        mixed = product(multiply_values, sums.acc.shape)

        following = item.start + i + stages

        @pl.when(following < total)
        def _() -> None:
            fetch(following, stage)

        return Sums(sums.acc * spread(shrink, mixed.shape) + mixed, top, weight)

    for i, item in enumerate(items):
        plgpu.barrier_wait(q_barrier.at[i])
        sums = lax.fori_loop(
            0, item.steps, partial(attend, item, queries[i]), no_sums(q_smem.shape[1])
        )
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        if config.num_splits > 1:
            used = pl.ds(0, padded)
            for value, smem, gmem in zip(sums, sums_smem, (out_gmem, *sums_gmem), strict=True):
                smem[...] = value
                plgpu.commit_smem()
                _copy_if(item.is_real, smem.at[used], gmem.at[item.row, item.head, split])
        else:
            weight = spread(jnp.maximum(sums.total, 1e-30), sums.acc.shape)
            out_smem[...] = (sums.acc / weight).astype(out_smem.dtype)
            plgpu.commit_smem()
            used = pl.ds(0, out_gmem.shape[2])
            is_wanted = item.steps > 0 if keeps else item.is_real
            _copy_if(is_wanted, out_smem.at[used], out_gmem.at[item.row, item.head])
    plgpu.wait_smem_to_gmem(0)


def _copy_if(condition: Any, smem: Any, gmem: Any) -> None:
    @pl.when(condition)
    def _() -> None:
        plgpu.copy_smem_to_gmem(smem, gmem)
