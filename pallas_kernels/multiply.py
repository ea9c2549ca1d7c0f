"""Products of activations with weights: XLA's, and what is faster for few rows on Hopper."""

from typing import Any, Protocol

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels import tiled_product
from pallas_kernels.few_rows import MAX_ROWS, choose_config, few_rows_product

# Longer sums would be shared among too few multiprocessors.
MAX_SUMMED = 8192
MANY_ROWS = 64
# Up to so many rows a product's time is the matrix's way from memory, and tiles of one size for all
# would leave multiprocessors without work.
MAX_SPLIT_ROWS = 128
TILE_OUT = 128


class Multiply(Protocol):
    """How products are made: `multiply`, or what is faster."""

    def __call__(self, x: Array, matrix: Array, *, narrow: bool = False) -> Array: ...


def multiply(
    x: Float[Array, "T in"], matrix: Float[Array, "out in"], *, narrow: bool = False
) -> Float[Array, "terms T out"]:
    """`x @ matrix.T` as XLA makes it, summed in float32; of float32 factors with all their bits.

    Args:
        narrow: the result may be in the type of `x`, where that spares the memory.

    Returns:
        terms whose sum is the product: here it is one.
    """
    return _product(x, matrix, jnp.float32)[None]


def _product(x: Array, matrix: Array, dtype: Any) -> Array:
    return lax.dot_general(
        x,
        matrix,
        (((1,), (1,)), ((), ())),
        precision=exact_if_wide(matrix),
        preferred_element_type=dtype,
    )


def exact_if_wide(values: Array) -> lax.Precision:
    """GPUs would round float32 factors to 10 bits; who asks for float32 wants all of them."""
    return lax.Precision.HIGHEST if values.dtype == jnp.float32 else lax.Precision.DEFAULT


def hopper_multiply(
    x: Float[Array, "T in"], matrix: Float[Array, "out in"], *, narrow: bool = False
) -> Float[Array, "terms T out"]:
    """`multiply`, by what is fastest for the shape.

    One row is a sum for each output, which XLA streams at the memory's speed ([4608, 3584]: 8.9 µs
    as sums, 16.0 as a product), faster still with 16-bit results; a few rows go to the kernel where
    that is faster, and some hundred to tiles that occupy every multiprocessor; the rest is XLA's
    product, up to 128 rows in terms, and of many rows in 16 bits if it may: the float32 results of
    gate and up are 310 MB a layer at 2,048 tokens. Measured on an H200, docs/performance.md.
    """
    num_rows, num_in = x.shape
    if matrix.dtype.itemsize != 2:
        return multiply(x, matrix)
    if num_rows == 1 and num_in <= MAX_SUMMED:
        made = sums(x, matrix)
        return made.astype(x.dtype) if narrow else made
    config = choose_config(matrix.shape[0], num_in)
    if num_rows <= MAX_ROWS and config is not None:
        return few_rows_product(x, matrix, config=config)
    if tiles := tiled_product.choose_config(num_rows, *matrix.shape):
        return tiled_product.tiled_product(x, matrix, config=tiles)
    if (splits := num_splits(num_rows, *matrix.shape)) > 1:
        return split_product(x, matrix, splits)
    if num_rows < MANY_ROWS or not narrow:
        return multiply(x, matrix)
    return narrow_product(x, matrix)[None]


def sums(x: Float[Array, "1 in"], matrix: Float[Array, "out in"]) -> Float[Array, "1 1 out"]:
    """`multiply` for one row, as a sum for each output."""
    return (matrix.astype(jnp.float32) * x.astype(jnp.float32)).sum(axis=-1)[None, None]


def narrow_product(
    x: Float[Array, "T in"], matrix: Float[Array, "out in"]
) -> Float[Array, "T out"]:
    """`x @ matrix.T` by XLA, summed in float32, the result in the type of `x`."""
    return _product(x, matrix, x.dtype)


def num_splits(num_rows: int, num_out: int, num_in: int) -> int:
    """Terms in which XLA's product of so many rows is faster than whole.

    XLA splits such products itself, but adds the terms up in a kernel of its own, which takes 2 to
    5 µs; who reads the terms adds them for nothing.
    """
    if not MAX_ROWS < num_rows <= MAX_SPLIT_ROWS:
        return 1
    tiles = -(-num_out // TILE_OUT)
    return max(
        s
        for s in (1, 2, 4)
        if s == 1 or (tiles * s <= tiled_product.NUM_CORES and num_in % (64 * s) == 0)
    )


def split_product(
    x: Float[Array, "T in"], matrix: Float[Array, "out in"], splits: int
) -> Float[Array, "splits T out"]:
    """`multiply` by XLA in so many terms, float32."""
    own, other = (values.reshape(values.shape[0], splits, -1) for values in (x, matrix))
    return lax.dot_general(
        own, other, (((2,), (2,)), ((1,), (1,))), preferred_element_type=jnp.float32
    )
