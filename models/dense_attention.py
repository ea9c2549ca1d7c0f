"""Attention of one sequence over itself, without a cache: for experiments and gradients."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from models.grouped_product import mix, score
from models.kv_cache import Attention
from models.projection import Projection
from models.sites import PATTERN, Tap, untouched


def make_dense_attention(tap: Tap = untouched) -> Attention[None]:
    """Causal softmax attention over the step's own tokens: one context in order.

    Sums are float32, and it rounds where attention over pages does: weights meet the values in the
    type of these, and are divided by their sum afterwards.
    """

    def attention(projection: Projection, cache: None) -> tuple[Array, None]:
        q, k, v = projection.heads()
        length, num_kv_heads, group, _ = q.shape
        keys, values = (x.swapaxes(0, 1)[None] for x in (k, v))
        scores = score(q[None], keys)[0]
        visible = jnp.tril(jnp.ones((length, length), bool))[:, None, None]
        scores = jnp.where(visible, scores, -jnp.inf)
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        total = weights.sum(axis=-1, keepdims=True)
        pattern = (weights / total).reshape(length, num_kv_heads * group, length)
        seen = tap(PATTERN, projection.layer, pattern)
        if seen is not pattern:  # somebody changed it
            weights, total = seen.reshape(weights.shape), jnp.ones_like(total)
        out = mix(weights[None], values)[0]
        return (out / total).astype(q.dtype), cache

    return attention
