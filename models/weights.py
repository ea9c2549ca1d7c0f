"""The types a weight matrix can have, and its product with activations.

A type is a module whose `product` maps [T, in] to [T, out]. The arrays keep the structure that they
shard by; the product sees the part that one device holds.
"""

from typing import Protocol

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.multiply import multiply

type Axes = tuple[str | None, ...]


class Multiply(Protocol):
    """How products are made: `pallas_kernels.multiply.multiply`, or what is faster."""

    def __call__(self, x: Array, matrix: Array, *, narrow: bool = False) -> Array: ...


class Dense(nnx.Module):
    """A float matrix, [*out, *in]; products accumulate in float32."""

    def __init__(self, values: Array, axes: Axes, *, num_out: int, multiply: Multiply = multiply):
        """`axes`: logical name of each axis; `num_out`: how many of them are outputs."""
        self.values = nnx.Param(values, axes=axes)
        self.num_out = num_out
        self.multiply = multiply

    def product(self, x: Float[Array, "T in"], *, narrow: bool = False) -> Float[Array, "T out"]:
        """float32, or with `narrow` perhaps the type of `x`."""
        terms = self.terms(x, narrow=narrow)
        return terms[0] if terms.shape[0] == 1 else terms.sum(axis=0)

    def terms(
        self, x: Float[Array, "T in"], *, narrow: bool = False
    ) -> Float[Array, "terms T out"]:
        """The product in terms that whoever reads it sums up."""
        return self.multiply(x, self.values[...].reshape(-1, x.shape[1]), narrow=narrow)


class Int8(nnx.Module):
    """An 8-bit matrix with a scale per output; activations are rounded per token, products exact.

    For CPUs: integer products read a quarter of float32's bytes.
    """

    def __init__(self, values: Array, scales: Array, axes: Axes, *, num_out: int):
        """`values` int8 [*out, *in]; `scales` float32 [*out]."""
        self.values = nnx.Param(values, axes=axes)
        self.scales = nnx.Param(scales, axes=axes[:num_out])
        self.num_out = num_out

    def terms(self, x: Float[Array, "T in"], *, narrow: bool = False) -> Float[Array, "1 T out"]:
        """The product, in the form of `Dense.terms`."""
        return self.product(x)[None]

    def product(self, x: Float[Array, "T in"], *, narrow: bool = False) -> Float[Array, "T out"]:
        """float32."""
        x = x.astype(jnp.float32)
        peak = jnp.maximum(jnp.abs(x).max(axis=1, keepdims=True), 1e-30)
        rounded = jnp.round(x * (127 / peak)).astype(jnp.int8)
        matrix = self.values[...].reshape(-1, x.shape[1])
        exact = lax.dot_general(
            rounded, matrix, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32
        )
        return exact.astype(jnp.float32) * (peak / 127) * self.scales[...].reshape(-1)


type Weight = Dense | Int8


def round_to_int8(values: Float[Array, "out in"]) -> tuple[Array, Array]:
    """int8 values and float32 scales [out] whose product is nearest to `values`, row by row."""
    peak = jnp.maximum(jnp.abs(values).max(axis=1), 1e-30)
    return jnp.round(values * (127 / peak)[:, None]).astype(jnp.int8), peak / 127
