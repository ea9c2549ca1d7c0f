"""What the attention kernels compute on a tile of queries, in a warpgroup's registers."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

TILE_M = 64  # rows of a warpgroup's matrix instruction

_MASKED = -1e30  # finite: a tile without any key stays free of NaN
LOG2_E = math.log2(math.e)


class Sums(NamedTuple):
    """An online softmax underway, in powers of two: exp2 is an instruction, exp is not.

    Attributes:
        acc: [64, H], weighted values.
        top: [64], the highest score so far, times log2(e).
        total: [64], the sum of weights.
    """

    acc: Array
    top: Array
    total: Array


def no_sums(head_dim: int) -> Sums:
    """Sums over no keys at all."""
    layout = plgpu.Layout.WGMMA
    by_row = layout.reduce(1)
    return Sums(
        plgpu.layout_cast(jnp.full((TILE_M, head_dim), 0.0, jnp.float32), layout),
        plgpu.layout_cast(jnp.full((TILE_M,), _MASKED, jnp.float32), by_row),
        plgpu.layout_cast(jnp.full((TILE_M,), 0.0, jnp.float32), by_row),
    )


def hide(scores: Array, hidden: Callable[[Array, Array], Array]) -> Array:
    """The scores [64, keys] but for those where `hidden(row, key)` holds of their numbers."""
    row, key = (
        plgpu.broadcasted_iota(jnp.int32, scores.shape, axis, layout=plgpu.Layout.WGMMA)
        for axis in (0, 1)
    )
    return jnp.where(hidden(row, key), _MASKED, scores)


def softmax_step(scores: Array, sums: Sums) -> tuple[Array, Array, Array, Array]:
    """The next keys of an online softmax.

    Returns:
        weights [64, keys], the factor for what was summed so far [64], the new `top` and `total`.
    """
    top = jnp.maximum(sums.top, scores.max(axis=1) * LOG2_E)
    shrink = jnp.exp2(sums.top - top)
    weights = jnp.exp2(scores * LOG2_E - spread(top, scores.shape))
    return weights, shrink, top, sums.total * shrink + weights.sum(axis=1)


def spread(values: Array, shape: tuple[int, ...]) -> Array:
    """One value a row, along the rows."""
    return lax.broadcast_in_dim(values, shape, [0])


def product(multiply: Callable[..., Any], *shapes: tuple[int, ...]) -> Any:
    """Matrix products into fresh accumulators of these shapes, read when they are complete."""
    # without the barrier the compiler may move arithmetic above the wait for the product
    accumulators = [plgpu.ACC(shape, jnp.float32) for shape in shapes]  # type: ignore[attr-defined,arg-type]
    return lax.optimization_barrier(pl.run_scoped(multiply, *accumulators))


def add_product(acc: Array, multiply: Callable[[Any], None], *, in_place: bool) -> Array:
    """`acc` and a matrix product, when it is complete.

    Args:
        in_place: in the registers of `acc`, which the interpreter cannot.
    """
    if in_place:
        added: Array = pl.run_state(multiply)(plgpu.ACC.init(acc))  # type: ignore[attr-defined]
        return lax.optimization_barrier(added)

    def read(acc_ref: Any) -> Array:
        multiply(acc_ref)
        return acc_ref[...]

    return acc + product(read, acc.shape)


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
