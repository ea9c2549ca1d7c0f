"""Attention of one sequence over itself, without a cache: for experiments and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from models.kv_cache import Attention
from models.projection import Projection
from models.sites import PATTERN, Tap, untouched


def make_dense_attention(tap: Tap = untouched) -> Attention[None]:
    """Causal softmax attention, in float32, over the step's own tokens: one context in order."""

    def attention(projection: Projection, cache: None) -> tuple[Array, None]:
        q, k, v = projection.heads()
        length, num_kv_heads, group, _ = q.shape
        wide = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
        q_wide, k_wide, v_wide = (x.astype(jnp.float32) for x in (q, k, v))
        scores = wide("TKGH,CKH->TKGC", q_wide, k_wide)
        visible = jnp.tril(jnp.ones((length, length), bool))[:, None, None]
        pattern = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
        by_head = pattern.reshape(length, num_kv_heads * group, length)
        pattern = tap(PATTERN, projection.layer, by_head).reshape(pattern.shape)
        out = wide("TKGC,CKH->TKGH", pattern, v_wide)
        return out.astype(q.dtype), cache

    return attention
