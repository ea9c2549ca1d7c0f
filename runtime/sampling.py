"""Chooses a token for each row of scores, without sorting the vocabulary."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from runtime.buckets import SampleMode
from runtime.thresholds import CPU_BITS, GPU_BITS, kept

NUM_CANDIDATES = 64
CHUNK = 128  # scores


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
    mode: SampleMode,
    temperature: Float[Array, " S"],
    top_k: Int[Array, " S"],
    top_p: Float[Array, " S"],
    min_p: Float[Array, " S"],
    keys: Array,
) -> Int[Array, " S"]:
    """The next token of each row: the best at temperature 0, else drawn from what is kept.

    Kept are the `top_k` best (0: all), of these the fewest whose share reaches `top_p`, of these
    the ones at least `min_p` times as likely as the best. Drawing is by Gumbel noise (Gumbel, 1954;
    Maddison et al., A* Sampling, 2014). Each row depends on its own values and key alone, and not
    on `mode`, which must be enough for all rows.

    Read from memory at 128 rows of 152,064 scores, 78 MB: greedy once, candidates twice, unlimited
    twice with noise made in passing, limited some 16 times, full some 28.
    """
    if mode is SampleMode.GREEDY:
        return _best(logits)
    # a row at temperature 0 is not drawn; dividing by 1 keeps it finite
    z = logits / jnp.where(temperature > 0, jnp.maximum(temperature, 1e-5), 1)[:, None]
    values, ids = best_of(z, min(NUM_CANDIDATES, z.shape[1]))
    random = temperature > 0
    total = jnp.zeros_like(temperature)
    if mode is SampleMode.CANDIDATES:
        exact, over_all = random, logits
    elif mode is SampleMode.UNLIMITED:
        exact = random & (top_k > 0)
        over_all = jnp.where(random[:, None], z + _noise(keys, z.shape[1]), logits)
    else:
        total = jnp.exp(z - values[:, :1]).sum(axis=-1)
        exact = random & _closes(values, total, top_k, top_p, min_p)
        unlimited = (top_k == 0) & (top_p >= 1) & (min_p <= 0)

        def search(bits: int) -> Array:
            many = top_k if mode is SampleMode.FULL else None  # more than candidates can hold
            allowed = kept(z, many, top_p, min_p, bits=bits) | unlimited[:, None]
            noisy = jnp.where(allowed, z + _noise(keys, z.shape[1]), -jnp.inf)
            return jnp.where(random[:, None], noisy, logits)

        # a CPU decides in place
        over_all = lax.platform_dependent(
            cpu=lambda: lax.cond(
                jnp.all(exact | ~random), lambda: logits, lambda: search(CPU_BITS)
            ),
            default=lambda: search(GPU_BITS),
        )
    among = _among_candidates(values, total, top_k, top_p, min_p, keys)
    drawn = jnp.take_along_axis(ids, among[:, None], axis=-1)[:, 0].astype(jnp.int32)
    return jnp.where(exact, drawn, _best(over_all))


def best_of(
    scores: Float[Array, "S V"], count: int
) -> tuple[Float[Array, "S C"], Int[Array, "S C"]]:
    """The `count` best of each row, the best first, and where they are.

    On a CPU, whose sort takes 12 ms for 152,064 scores, they are looked for in the chunks with the
    highest maxima: the best `count` lie in so many chunks at most.
    """

    def among_all(scores: Array) -> tuple[Array, Array]:
        values, ids = lax.top_k(scores, count, is_stable=False)
        return values, ids

    def among_chunks(scores: Array) -> tuple[Array, Array]:
        num_rows, width = scores.shape
        chunks = scores.reshape(num_rows, width // CHUNK, CHUNK)
        _, high = lax.top_k(chunks.max(axis=-1), count, is_stable=False)
        high = jnp.sort(high, axis=-1)
        inside = jnp.take_along_axis(chunks, high[:, :, None], axis=1).reshape(num_rows, -1)
        values, at = lax.top_k(inside, count, is_stable=False)
        return values, jnp.take_along_axis(high, at // CHUNK, axis=1) * CHUNK + at % CHUNK

    if scores.shape[1] % CHUNK or scores.shape[1] < 4 * count * CHUNK:
        return among_all(scores)
    best: tuple[Array, Array] = lax.platform_dependent(scores, cpu=among_chunks, default=among_all)
    return best


def _best(scores: Array) -> Array:
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def _noise(keys: Array, count: int) -> Array:
    return jax.vmap(lambda key: jax.random.gumbel(key, (count,)))(keys)


def _shares(values: Array, top_k: Array) -> tuple[Array, Array]:
    """How likely the candidates within top_k are beside the best; and which are within."""
    within_k = (top_k[:, None] == 0) | (jnp.arange(values.shape[1]) < top_k[:, None])
    return jnp.where(within_k, jnp.exp(values - values[:, :1]), 0), within_k


def _closes(values: Array, total: Array, top_k: Array, top_p: Array, min_p: Array) -> Array:
    """Whether nothing past the candidates can be kept; `total`: what all tokens add up to."""
    shares, _ = _shares(values, top_k)
    closes = (top_k > 0) & (top_k <= NUM_CANDIDATES)
    closes |= (top_k == 0) & (top_p < 1) & (shares.sum(axis=-1) >= top_p * total)
    return closes | ((shares[:, -1] < min_p) & ((top_k == 0) | (top_p >= 1)))


def _among_candidates(
    values: Array, total: Array, top_k: Array, top_p: Array, min_p: Array, keys: Array
) -> Array:
    """Index of the candidate that is drawn; `total` matters for rows without top_k only."""
    shares, within_k = _shares(values, top_k)
    reached = jnp.cumsum(shares, axis=-1)
    whole = jnp.where(top_k == 0, total, shares.sum(axis=-1))
    keep = within_k & (reached - shares < (top_p * whole)[:, None])
    keep &= shares >= min_p[:, None]
    noisy = values + _noise(keys, values.shape[1])
    return jnp.argmax(jnp.where(keep, noisy, -jnp.inf), axis=-1)
