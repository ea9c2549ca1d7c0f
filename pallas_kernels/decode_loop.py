"""The inner loop of decode attention on Hopper: an instance's contexts, page by page."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from pallas_kernels.decode_items import Item, pages_of
from pallas_kernels.online_softmax import (
    TILE_M,
    Sums,
    hide,
    product,
    softmax_step,
    spread,
    swizzled,
)


class Pages(NamedTuple):
    """Keys and values on their way through shared memory; the scratch of a kernel.

    Attributes:
        k_smem, v_smem: [stages, keys of a step, H]
        k_barrier, v_barrier: one for each stage.
        weights_smem: [64, keys of a step], to pass the weights through, which the interpreter
            needs; else None.
    """

    k_smem: Any
    v_smem: Any
    k_barrier: Any
    v_barrier: Any
    weights_smem: Any = None


class Results(NamedTuple):
    """On their way out of shared memory; the scratch of a kernel.

    Attributes:
        out: [64, H]; of several splits, float32.
        sums: of several splits: top and total, [64] float32 each.
    """

    out: Any
    sums: tuple[Any, ...] = ()


class Start(NamedTuple):
    """What an item begins with.

    Attributes:
        multiply: `multiply(acc_ref, keys_smem)` adds the scores of the keys [keys, H] to acc_ref.
        sums: over what is in no page yet.
        end: keys of the split's pages that count.
    """

    multiply: Callable[[Any, Any], None]
    sums: Sums
    end: Any


def pages_scratch(
    num_stages: int,
    num_keys: int,
    head_dim: int,
    dtype: Any,
    *,
    pages_per_step: int,
    interpret: Any,
) -> Pages:
    """What `Pages` is made of."""
    smem = plgpu.SMEM((num_stages, num_keys, head_dim), dtype, transforms=swizzled(2))
    barrier = plgpu.Barrier(num_arrivals=pages_per_step, num_barriers=num_stages)
    weights = plgpu.SMEM((TILE_M, num_keys), dtype, transforms=swizzled(2))
    return Pages(smem, smem, barrier, barrier, None if interpret is None else weights)


def results_scratch(num_splits: int, head_dim: int, dtype: Any) -> Results:
    """What `Results` is made of."""
    if num_splits == 1:
        return Results(plgpu.SMEM((TILE_M, head_dim), dtype))  # G rows need not be tiles
    row = plgpu.SMEM((TILE_M,), jnp.float32)
    return Results(plgpu.SMEM((TILE_M, head_dim), jnp.float32, transforms=swizzled(4)), (row, row))


def attend_items(
    items: list[Item],
    total: Array,
    k_gmem: Any,  # [pages, K, page, H]
    v_gmem: Any,  # [pages, K, page, H]
    tables_gmem: Any,  # [B, P]
    out_gmem: tuple[Any, ...],  # [B or N, K, G, H]; of several splits, see _write
    *,
    pages: Pages,
    results: Results,
    begin: Callable[[int, Item], Start],
    end: Callable[[int, Item], None],
    keeps: bool,
) -> None:
    """Attention of an instance's items, in `total` steps.

    Args:
        begin: called when an item's first pages are on their way.
        end: called when its last page has been read.
        keeps: what stands in `out_gmem` stays where there are no keys.
    """
    stages, keys = pages.k_smem.shape[:2]
    page_size = k_gmem.shape[2]
    pages_per_step = keys // page_size

    def fetch(step: Any, stage: Any) -> None:
        row, head, places = pages_of(items, step, pages_per_step)
        ways = ((k_gmem, pages.k_smem, pages.k_barrier), (v_gmem, pages.v_smem, pages.v_barrier))
        for i, place in enumerate(places):
            page, part = tables_gmem[row, place], pl.ds(i * page_size, page_size)
            for gmem, smem, barrier in ways:
                plgpu.copy_gmem_to_smem(
                    gmem.at[page, head], smem.at[stage, part], barrier.at[stage]
                )

    for stage in range(stages):

        @pl.when(stage < total)
        def _(stage: int = stage) -> None:
            fetch(stage, stage)

    def attend(item: Item, start: Start, i: Array, sums: Sums) -> Sums:
        stage = lax.rem(item.start + i, jnp.int32(stages))
        plgpu.barrier_wait(pages.k_barrier.at[stage])

        def multiply_keys(acc_ref: Any) -> Array:
            start.multiply(acc_ref, pages.k_smem.at[stage])
            return acc_ref[...]

        scores = product(multiply_keys, (TILE_M, keys))
        first_key = item.first * page_size + i * keys
        scores = hide(scores, lambda _, key: first_key + key >= start.end)
        weights, shrink, top, weight = softmax_step(scores, sums)
        narrow = weights.astype(pages.v_smem.dtype)
        if pages.weights_smem is not None:
            pages.weights_smem[...] = narrow
            plgpu.commit_smem()
        plgpu.barrier_wait(pages.v_barrier.at[stage])

        def multiply_values(acc_ref: Any) -> Array:
            left = narrow if pages.weights_smem is None else pages.weights_smem
            plgpu.wgmma(acc_ref, left, pages.v_smem.at[stage])
            return acc_ref[...]

        mixed = product(multiply_values, sums.acc.shape)
        following = item.start + i + stages

        @pl.when(following < total)
        def _() -> None:
            fetch(following, stage)

        return Sums(sums.acc * spread(shrink, mixed.shape) + mixed, top, weight)

    for i, item in enumerate(items):
        start = begin(i, item)
        sums = lax.fori_loop(0, item.steps, partial(attend, item, start), start.sums)
        end(i, item)
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        _write(item, sums, results, out_gmem, keeps=keeps)
    plgpu.wait_smem_to_gmem(0)


def _write(
    item: Item,
    sums: Sums,
    results: Results,
    out_gmem: tuple[Any, ...],  # or [B, K, splits, padded, H], and top and total without H
    *,
    keeps: bool,
) -> None:
    if results.sums:
        used = pl.ds(0, out_gmem[0].shape[3])
        smem, split = (results.out, *results.sums), lax.axis_index("split")
        for value, own, gmem in zip(sums, smem, out_gmem, strict=True):
            own[...] = value
            plgpu.commit_smem()
            copy_if(item.is_real, own.at[used], gmem.at[item.row, item.head, split])
        return
    (gmem,) = out_gmem
    weight = spread(jnp.maximum(sums.total, 1e-30), sums.acc.shape)
    results.out[...] = (sums.acc / weight).astype(results.out.dtype)
    plgpu.commit_smem()
    is_wanted = item.steps > 0 if keeps else item.is_real
    own = results.out.at[pl.ds(0, gmem.shape[2])]
    copy_if(is_wanted, own, gmem.at[item.row, item.head])


def copy_if(condition: Any, smem: Any, gmem: Any) -> None:
    """Starts a copy out of shared memory, under a condition."""

    @pl.when(condition)
    def _() -> None:
        plgpu.copy_smem_to_gmem(smem, gmem)
