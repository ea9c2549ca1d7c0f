"""Chooses a token for each row of scores, without sorting the vocabulary."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

NUM_CANDIDATES = 64

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


def adjust(
    logits: Float[Array, "S V"],
    *,
    counts: Int[Array, "S V"],
    penalties: Float[Array, "S 3"],
    bias_ids: Int[Array, "S 300"],
    bias_values: Float[Array, "S 300"],
    banned_ids: Int[Array, "S 64"],
    ban: Bool[Array, " S"],
) -> Float[Array, "S V"]:
    """Penalties, logit_bias and the tokens that may not end the answer yet; in this order.

    Sources: Keskar et al., CTRL, 2019, section 4.1 (repetition); the OpenAI API reference
    (presence, frequency, bias). Arguments as in `runtime.slots.SlotState`.
    """
    repetition, presence, frequency = (penalties[:, i, None] for i in range(3))
    times = (counts >> 1).astype(jnp.float32)
    seen = jnp.where(logits > 0, logits / repetition, logits * repetition)
    logits = jnp.where(counts > 0, seen, logits)
    logits = logits - frequency * times - presence * (times > 0)
    row = jnp.arange(logits.shape[0])[:, None]
    logits = logits.at[row, bias_ids].add(bias_values, mode="drop")
    banned = jnp.where(ban[:, None], banned_ids, logits.shape[1])
    return logits.at[row, banned].set(-jnp.inf, mode="drop")


def choose(
    logits: Float[Array, "S V"],
    *,
    temperature: Float[Array, " S"],
    top_k: Int[Array, " S"],
    top_p: Float[Array, " S"],
    min_p: Float[Array, " S"],
    keys: Array,
) -> Int[Array, " S"]:
    """The next token of each row: the best at temperature 0, else drawn from what is kept.

    Kept are the `top_k` best (0: all), of these the fewest whose share reaches `top_p`, of these
    the ones at least `min_p` times as likely as the best. Drawing is by Gumbel noise (Gumbel, 1954;
    Maddison et al., A* Sampling, 2014). Each row depends on its own values and key alone.
    """
    greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def draw() -> Array:
        drawn = _draw(logits, jnp.maximum(temperature, 1e-5), top_k, top_p, min_p, keys)
        return jnp.where(temperature > 0, drawn, greedy)

    return lax.cond(jnp.any(temperature > 0), draw, lambda: greedy)


def _draw(
    logits: Array, temperature: Array, top_k: Array, top_p: Array, min_p: Array, keys: Array
) -> Array:
    """Three tiers: among the best 64 where that is exact, over all, over all above a threshold."""
    z = logits / temperature[:, None]
    log_total = jax.nn.logsumexp(z, axis=-1, keepdims=True)
    num_candidates = min(NUM_CANDIDATES, z.shape[1])
    values, ids = lax.top_k(z, num_candidates, is_stable=False)
    probs = jnp.exp(values - log_total)
    rank = jnp.arange(num_candidates)
    within_k = (top_k[:, None] == 0) | (rank < top_k[:, None])
    kept_probs = jnp.where(within_k, probs, 0)
    share = jnp.where(top_k == 0, 1.0, kept_probs.sum(axis=-1))
    reached = jnp.cumsum(kept_probs, axis=-1)
    keep = within_k & (reached - kept_probs < (top_p * share)[:, None])
    keep &= probs >= min_p[:, None] * probs[:, :1]
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (num_candidates,)))(keys)
    best = jnp.argmax(jnp.where(keep, values + noise, -jnp.inf), axis=-1)
    among_candidates = jnp.take_along_axis(ids, best[:, None], axis=-1)[:, 0].astype(jnp.int32)

    # exact only if nothing past the candidates could have been kept
    exact = (top_k > 0) & (top_k <= num_candidates)
    exact |= (top_k == 0) & (top_p < 1) & (reached[:, -1] >= top_p)
    exact |= (probs[:, -1] < min_p * probs[:, 0]) & ((top_k == 0) | (top_p >= 1))
    unlimited = (top_k == 0) & (top_p >= 1) & (min_p <= 0)

    def over_all() -> Array:
        allowed = lax.cond(
            jnp.all(exact | unlimited),
            lambda: jnp.ones(z.shape, bool),
            lambda: _kept(z, log_total, top_k, top_p, min_p) | unlimited[:, None],
        )
        noise = jax.vmap(lambda key: jax.random.gumbel(key, z.shape[1:]))(keys)
        best = jnp.argmax(jnp.where(allowed, z + noise, -jnp.inf), axis=-1)
        return jnp.where(exact, among_candidates, best.astype(jnp.int32))

    return lax.cond(jnp.all(exact), lambda: among_candidates, over_all)


def _kept(z: Array, log_total: Array, top_k: Array, top_p: Array, min_p: Array) -> Array:
    """Mask of what top_k, top_p and min_p keep of any vocabulary; ties are kept together."""
    order = _ordered_bits(z)
    wanted = jnp.where(top_k == 0, z.shape[1], jnp.minimum(top_k, z.shape[1]))
    probs = jnp.exp(z - log_total)
    lowest_k = _highest_threshold(order, lambda mask: mask.sum(axis=-1) >= wanted)
    probs = jnp.where(order >= lowest_k[:, None], probs, 0)
    share = top_p * probs.sum(axis=-1)
    lowest_p = _highest_threshold(
        order, lambda mask: jnp.where(mask, probs, 0).sum(axis=-1) >= share
    )
    kept = order >= jnp.maximum(lowest_k, lowest_p)[:, None]
    return kept & (probs >= min_p[:, None] * probs.max(axis=-1, keepdims=True))


def _ordered_bits(z: Float[Array, "S V"]) -> Int[Array, "S V"]:
    """Integers in the order of the floats: negative ones have all bits but the sign turned."""
    bits = lax.bitcast_convert_type(z, jnp.int32)
    return bits ^ ((bits >> 31) & _HIGHEST)


def _highest_threshold(
    order: Int[Array, "S V"], holds: Callable[[Bool[Array, "S V"]], Bool[Array, " S"]]
) -> Int[Array, " S"]:
    """For each row the highest t for which `holds(order >= t)`, by bisection over the 32 bits."""

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # holds at low, not at high
        middle = (low & high) + ((low ^ high) >> 1)  # the mean, without overflow
        good = holds(order >= middle[:, None])
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    rows = order.shape[0]
    bounds = (jnp.full(rows, _LOWEST, jnp.int32), jnp.full(rows, _HIGHEST, jnp.int32))
    return lax.fori_loop(0, 32, halve, bounds)[0]
