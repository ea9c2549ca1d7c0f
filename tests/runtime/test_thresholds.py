"""A threshold keeps what sorting keeps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runtime.thresholds import GPU_BITS, _ordered_bits, highest_threshold, kept
from tests.runtime.distributions import LIMITS, kept_probabilities, scores, wider

jitted_kept = jax.jit(kept, static_argnames="bits")


@partial(jax.jit, static_argnames="bits")
def jitted_threshold(z, weights, wanted, bits):
    return highest_threshold(z, lambda *_: weights, wanted, bits=bits)


@pytest.mark.parametrize("bits", [1, GPU_BITS])
def test_the_highest_threshold_is_that_of_a_sorted_row(bits):
    rng = np.random.default_rng(6)
    z = rng.normal(0, 10.0 ** rng.integers(-30, 30, (3, 200))).astype(np.float32)
    z[0, :6] = [-np.inf, -np.inf, np.inf, 0, 0, -1e-40]
    order = np.asarray(_ordered_bits(jnp.asarray(z)))
    weights = rng.integers(0, 4, (3, 200)).astype(np.float32)
    for wanted in (1.0, 37.0, float(weights.sum(axis=1).min()), 10_000.0):
        found = jitted_threshold(
            jnp.asarray(z), jnp.asarray(weights), jnp.full(3, wanted), bits=bits
        )
        for row in range(3):
            by_rank = np.argsort(-order[row].astype(np.int64))
            reached = np.cumsum(weights[row][by_rank]) >= wanted
            best = order[row][by_rank[reached.argmax()]] if reached.any() else 0
            assert int(found[row]) == best


@pytest.mark.parametrize("bits", [1, GPU_BITS])
@pytest.mark.parametrize("limits", [x for x in LIMITS if "temperature" not in x], ids=str)
def test_what_is_kept_is_what_sorting_keeps(limits, bits):
    logits = np.stack([scores(3_000, spread) for spread in (0.1, 1.0, 4.0)])
    full = {"top_k": 0, "top_p": 1.0, "min_p": 0.0} | limits
    mask = jitted_kept(
        jnp.asarray(logits),
        jnp.full(3, full["top_k"], jnp.int32),
        jnp.full(3, full["top_p"], jnp.float32),
        jnp.full(3, full["min_p"], jnp.float32),
        bits=bits,
    )
    for row, own in zip(np.asarray(mask), logits, strict=True):
        probs = kept_probabilities(own, **limits)
        nearly = kept_probabilities(own, **{**limits, **wider(limits)})
        assert not (row & (nearly == 0)).any() and row[probs > 0].all()
