"""What a layer's first product gives, on its way to queries, keys and values."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from models.rope import rotate
from models.sites import Tap, untouched


@dataclass(frozen=True)
class Projection:
    """Heads as the product gives them; a kernel may do what is left in its own way.

    Attributes:
        layer: for taps and for the cache.
        terms: [terms, T, K, G + 2, H], to be summed: by kv head its G queries, key and value.
        bias: [K, G + 2, H], still to be added.
        rope: cosine and sine of every token's angles, [T, H / 2].
        dtype: of activations.
        tap: sees queries, keys and values.
    """

    layer: Array | int
    terms: Array
    bias: Array
    rope: tuple[Array, Array]
    dtype: jnp.dtype
    tap: Tap = untouched

    @property
    def group(self) -> int:
        """G, the query heads of a kv head."""
        return self.bias.shape[1] - 2

    def heads(self) -> tuple[Array, Array, Array]:
        """Queries [T, K, G, H], rotated and scaled, keys [T, K, H], rotated, and values."""
        with jax.named_scope("rope"):
            values = self.terms.astype(jnp.float32).sum(axis=0)
            own = (values + self.bias).astype(self.dtype)
            q = rotate(own[:, :, :-2], *self.rope) * own.shape[-1] ** -0.5
            k = rotate(own[:, :, -2], *self.rope)
        q = self.tap("attn.q", self.layer, q.astype(self.dtype))
        k = self.tap("attn.k", self.layer, k.astype(self.dtype))
        return q, k, self.tap("attn.v", self.layer, own[:, :, -1])
