"""The inner loop of both attention kernels: a tile of queries against a stream of pages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

TILE_M = 64  # rows of a warpgroup's matrix instruction

_MASKED = -1e30  # finite: a tile without any key stays free of NaN


@dataclass(frozen=True)
class PageRing:
    """Pages on their way into shared memory, a few ahead of their use.

    Attributes:
        k, v: [stages, page, H] in shared memory.
        k_barrier, v_barrier: one a stage, passed when the page is there.
        fetch: `fetch(i, stage)` starts the copies of the i-th page.
    """

    k: Any
    v: Any
    k_barrier: Any
    v_barrier: Any
    num_stages: int
    fetch: Callable[[Any, Any], None]

    def begin(self, count: Array) -> None:
        """Starts the first copies, of `count` pages in all."""
        for stage in range(self.num_stages):

            @pl.when(stage < count)
            def _(stage: int = stage) -> None:
                self.fetch(stage, stage)


def attend_pages(
    q_smem: Any,
    ring: PageRing,
    count: Array,
    visible: Callable[[Array, tuple[int, ...]], Array],
    p_smem: Any,
) -> tuple[Array, Array, Array]:
    """Online softmax of a tile of queries over `count` pages, in registers; the ring has begun.

    Args:
        q_smem: [64, H], scaled by log2(e) besides the usual: weights are powers of two.
        visible: `visible(i, (64, page))`, which keys of the i-th page each row sees.
        p_smem: [64, page] to pass the weights through, or None to keep them in registers, which the
            interpreter cannot.

    Returns:
        sums of weighted values [64, H], highest scores [64] and sums of weights [64], float32.
    """
    layout = plgpu.Layout.WGMMA
    by_row = layout.reduce(1)
    page_size, head_dim = ring.k.shape[1:]

    def along_rows(values: Array, shape: tuple[int, ...]) -> Array:
        return lax.broadcast_in_dim(values, shape, [0])

    def attend(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        acc, top, total = carry
        stage = lax.rem(i, jnp.int32(ring.num_stages))
        plgpu.barrier_wait(ring.k_barrier.at[stage])

        def scores_of(acc_ref: Any) -> Array:
            plgpu.wgmma(acc_ref, q_smem, ring.k.at[stage].transpose((1, 0)))
            return acc_ref[...]

        scores = _product(scores_of, (TILE_M, page_size))
        scores = jnp.where(visible(i, scores.shape), scores, _MASKED)
        new_top = jnp.maximum(top, scores.max(axis=1))
        shrink = jnp.exp2(top - new_top)
        weights = jnp.exp2(scores - along_rows(new_top, scores.shape))
        total = total * shrink + weights.sum(axis=1)
        narrow = weights.astype(q_smem.dtype)
        if p_smem is not None:
            p_smem[...] = narrow
            plgpu.commit_smem()
        plgpu.barrier_wait(ring.v_barrier.at[stage])

        def mixed_of(acc_ref: Any) -> Array:
            plgpu.wgmma(acc_ref, narrow if p_smem is None else p_smem, ring.v.at[stage])
            return acc_ref[...]

        acc = acc * along_rows(shrink, acc.shape) + _product(mixed_of, (TILE_M, head_dim))

        @pl.when(i + ring.num_stages < count)
        def _() -> None:
            ring.fetch(i + ring.num_stages, stage)

        return acc, new_top, total

    start = (
        plgpu.layout_cast(jnp.full((TILE_M, head_dim), 0.0, jnp.float32), layout),
        plgpu.layout_cast(jnp.full((TILE_M,), _MASKED, jnp.float32), by_row),
        plgpu.layout_cast(jnp.full((TILE_M,), 0.0, jnp.float32), by_row),
    )
    return lax.fori_loop(0, count, attend, start)


def _product(multiply: Callable[[Any], Array], shape: tuple[int, int]) -> Array:
    """A matrix product into a fresh accumulator, read when it is complete."""
    # without the barrier the compiler may move arithmetic above the wait for the product
    accumulator = plgpu.ACC(shape, jnp.float32)  # type: ignore[attr-defined]
    result: Array = jax.lax.optimization_barrier(pl.run_scoped(multiply, accumulator))
    return result


def check_operands(q: Array, k_pages: Array, v_pages: Array) -> None:
    """What both kernels ask of queries [..., H] and pages.

    Raises:
        ValueError: another head dimension than 64 or 128, or not one 16-bit type.
    """
    if q.shape[-1] not in (64, 128):
        raise ValueError(f"head_dim must be 64 or 128, got {q.shape[-1]}")
    if q.dtype.itemsize != 2 or k_pages.dtype != q.dtype or v_pages.dtype != q.dtype:
        raise ValueError(
            "q, k_pages and v_pages must have one 16-bit type, "
            f"got {q.dtype}, {k_pages.dtype}, {v_pages.dtype}"
        )


def swizzled(itemsize: int) -> tuple[Any, Any]:
    """The layout in shared memory that matrix instructions and bulk copies both take."""
    tiling = plgpu.TilingTransform((8, 128 // itemsize))  # type: ignore[abstract]
    return tiling, plgpu.SwizzleTransform(128)  # type: ignore[abstract]
