"""Products of activations with weights: XLA's, and what is faster for few rows on Hopper."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.few_rows import MAX_ROWS, choose_config, few_rows_product

# Longer sums would be shared among too few multiprocessors.
MAX_SUMMED = 8192


def multiply(x: Float[Array, "T in"], matrix: Float[Array, "out in"]) -> Float[Array, "T out"]:
    """`x @ matrix.T` as XLA makes it, summed in float32; of float32 factors with all their bits."""
    return lax.dot_general(
        x,
        matrix,
        (((1,), (1,)), ((), ())),
        precision=exact_if_wide(matrix),
        preferred_element_type=jnp.float32,
    )


def exact_if_wide(values: Array) -> lax.Precision:
    """GPUs would round float32 factors to 10 bits; who asks for float32 wants all of them."""
    return lax.Precision.HIGHEST if values.dtype == jnp.float32 else lax.Precision.DEFAULT


def hopper_multiply(
    x: Float[Array, "T in"], matrix: Float[Array, "out in"]
) -> Float[Array, "T out"]:
    """`multiply`, by what is fastest for the shape.

    One row is a sum for each output, which XLA streams at the memory's speed ([4608, 3584]: 8.9 µs
    as sums, 16.0 as a product); a few rows go to the kernel where that is faster; the rest is
    XLA's product. Measured on an H200, docs/performance.md.
    """
    num_rows, num_in = x.shape
    if matrix.dtype.itemsize == 2:
        if num_rows == 1 and num_in <= MAX_SUMMED:
            return (matrix.astype(jnp.float32) * x.astype(jnp.float32)).sum(axis=-1)[None]
        config = choose_config(matrix.shape[0], num_in)
        if num_rows <= MAX_ROWS and config is not None:
            return few_rows_product(x, matrix, config=config)
    return multiply(x, matrix)
