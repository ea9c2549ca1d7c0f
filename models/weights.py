"""The types a weight matrix can have, and its product with activations.

A type is a module whose `product` maps [T, in] to [T, out]. The arrays keep the structure that they
shard by; the product sees the part that one device holds.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.gated_product import Gated, activate, gated_product
from pallas_kernels.multiply import Multiply, multiply

type Axes = tuple[str | None, ...]


@dataclass(frozen=True)
class Products:
    """How the products of float matrices are made."""

    multiply: Multiply = multiply
    gated: Gated = gated_product


PLAIN = Products()


class Dense(nnx.Module):
    """A float matrix, [*out, *in]; products accumulate in float32."""

    def __init__(self, values: Array, axes: Axes, *, products: Products = PLAIN):
        """`axes`: logical name of each axis."""
        self.values = nnx.Param(values, axes=axes)
        self.products = products

    def product(self, x: Float[Array, "T in"], *, narrow: bool = False) -> Float[Array, "T out"]:
        """float32, or with `narrow` perhaps the type of `x`."""
        terms = self.terms(x, narrow=narrow)
        return terms[0] if terms.shape[0] == 1 else terms.sum(axis=0)

    def terms(
        self, x: Float[Array, "T in"], *, narrow: bool = False
    ) -> Float[Array, "terms T out"]:
        """The product in terms that whoever reads it sums up."""
        matrix = self.values[...].reshape(-1, x.shape[1])
        return self.products.multiply(x, matrix, narrow=narrow)

    def gated(self, x: Float[Array, "T in"]) -> Float[Array, "T out"]:
        """silu(gate) * up, for a matrix [2, out, in] of both, in the type of `x`."""
        return self.products.gated(x, self.values[...])


class Int8(nnx.Module):
    """An 8-bit matrix with a scale per output; activations are rounded per token, products exact.

    For CPUs: integer products read a quarter of float32's bytes.
    """

    def __init__(self, values: Array, scales: Array, axes: Axes, *, num_out: int):
        """`values` int8 [*out, *in], `num_out` axes and the rest; `scales` float32 [*out]."""
        self.values = nnx.Param(values, axes=axes)
        self.scales = nnx.Param(scales, axes=axes[:num_out])

    def terms(self, x: Float[Array, "T in"], *, narrow: bool = False) -> Float[Array, "1 T out"]:
        """The product, in the form of `Dense.terms`."""
        return self.product(x)[None]

    def gated(self, x: Float[Array, "T in"]) -> Float[Array, "T out"]:
        """The same as `Dense.gated`."""
        return activate(self.terms(x), x.dtype)

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
