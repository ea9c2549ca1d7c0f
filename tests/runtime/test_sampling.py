"""A token is drawn from what top_k, top_p and min_p keep, as often as its share says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runtime.buckets import SampleMode
from runtime.request import MAX_LOGIT_BIAS
from runtime.sampling import NUM_CANDIDATES, adjust, best_of, choose
from runtime.slots import MAX_BANNED
from tests.runtime.distributions import LIMITS, kept_probabilities, scores, wider

OPTIMISED = True  # many draws
NUM_DRAWS = 1_500  # of few shapes, for each compiles

jitted = jax.jit(choose, static_argnames="mode")


def keys_of(*numbers: int) -> jax.Array:
    return jax.vmap(jax.random.key)(jnp.array(numbers))


def draw(logits: np.ndarray, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=0):
    """One token for each row, every row with its own key."""
    rows = len(logits)
    return np.asarray(
        jitted(
            jnp.asarray(logits, jnp.float32),
            mode=SampleMode.FULL if top_k > NUM_CANDIDATES else SampleMode.LIMITED,
            temperature=jnp.full(rows, temperature, jnp.float32),
            top_k=jnp.full(rows, top_k, jnp.int32),
            top_p=jnp.full(rows, top_p, jnp.float32),
            min_p=jnp.full(rows, min_p, jnp.float32),
            keys=keys_of(*range(seed * rows, (seed + 1) * rows)),
        )
    )


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("spread", [0.1, 4.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("vocab", [50, 2_000])
def test_draws_follow_the_kept_distribution(vocab, spread, limits):
    logits = scores(vocab, spread)
    probs = kept_probabilities(logits, **limits)
    tokens = draw(np.tile(logits, (NUM_DRAWS, 1)), **limits)
    counts = np.bincount(tokens, minlength=vocab)
    # a share so near the limit that rounding decides is allowed either way
    nearly = kept_probabilities(logits, **{**limits, **wider(limits)})
    assert not counts[nearly == 0].sum(), "a token that is not kept"
    # tokens in bins of equal share: the sum of squares is a chi-square of as many degrees
    order = np.argsort(-probs, kind="stable")
    bins = np.minimum((np.cumsum(probs[order]) - probs[order]) * 20, 19).astype(int)
    expected = np.bincount(bins, probs[order], 20) * NUM_DRAWS
    seen = np.bincount(bins, counts[order], 20)
    filled = expected > 5
    chi_square = ((seen - expected)[filled] ** 2 / expected[filled]).sum()
    freedom = filled.sum()
    assert chi_square < freedom + 6 * np.sqrt(2 * freedom) + 6


@pytest.mark.parametrize("vocab", [50, 2_000])
@pytest.mark.parametrize("limits", [{"top_k": 5}, {"top_k": 100}, {"top_p": 0.5}, {"min_p": 0.9}])
def test_everything_kept_is_drawn(vocab, limits):
    logits = np.full(vocab, -50.0, np.float32)
    logits[:20:2] = np.linspace(0.0, 0.05, 10)
    kept = np.flatnonzero(kept_probabilities(logits, **limits) > 1e-6)
    tokens = draw(np.tile(logits, (NUM_DRAWS, 1)), **limits)
    assert set(tokens.tolist()) == set(kept.tolist())


@pytest.mark.parametrize("vocab", [5, 50, 5_000])
def test_temperature_0_takes_the_best(vocab):
    logits = np.random.default_rng(0).normal(size=(9, vocab)).astype(np.float32)
    assert np.array_equal(draw(logits, temperature=0.0), logits.argmax(axis=1))


def test_a_low_temperature_takes_the_best_too():
    logits = scores(5_000, 4.0)[None]
    assert draw(logits, temperature=1e-9)[0] == logits.argmax()


def test_greedy_ties_go_to_the_first():
    logits = np.zeros((9, 50), np.float32)
    logits[:, [13, 37]] = 3.0
    assert draw(logits, temperature=0.0).tolist() == [13] * 9


def test_drawn_ties_are_all_among_the_best():
    logits = np.zeros((NUM_DRAWS, 2_000), np.float32)
    logits[:, [13, 57, 900]] = 9.0
    assert set(draw(logits, top_k=1).tolist()) <= {13, 57, 900}
    assert set(draw(logits, top_k=3).tolist()) == {13, 57, 900}


def test_equal_scores_of_a_whole_vocabulary_are_a_choice_of_all():
    tokens = draw(np.zeros((NUM_DRAWS, 2_000), np.float32), top_k=1_999)
    assert len(set(tokens.tolist())) > 950  # 1,500 draws of 2,000 meet 1,055 on average


@pytest.mark.parametrize("vocab", [50, 5_000])
def test_rows_do_not_know_each_other(vocab):
    """Each way of drawing occurs, and a row among others is, bit by bit, the row alone."""
    rng = np.random.default_rng(3)
    rows = []
    for i, limits in enumerate([*LIMITS, {"temperature": 0.0}]):
        for spread in (0.1, 4.0):
            full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | limits
            rows.append((rng.normal(0, spread, vocab).astype(np.float32), full, i))

    def run(chosen):
        return np.asarray(
            jitted(
                jnp.array([logits for logits, _, _ in chosen]),
                mode=SampleMode.FULL,
                temperature=jnp.array([x["temperature"] for _, x, _ in chosen], jnp.float32),
                top_k=jnp.array([x["top_k"] for _, x, _ in chosen], jnp.int32),
                top_p=jnp.array([x["top_p"] for _, x, _ in chosen], jnp.float32),
                min_p=jnp.array([x["min_p"] for _, x, _ in chosen], jnp.float32),
                keys=keys_of(*(seed for _, _, seed in chosen)),
            )
        )

    together = run(rows)
    assert [int(run([row])[0]) for row in rows] == together.tolist()
    assert run(rows[::-1]).tolist() == together[::-1].tolist()


@pytest.mark.parametrize("mode", [SampleMode.CANDIDATES, SampleMode.UNLIMITED, SampleMode.LIMITED])
def test_a_row_draws_the_same_in_every_mode_that_is_enough(mode):
    limits = [{"temperature": 0.0}, {"top_k": 1}, {"top_k": 40, "top_p": 0.6, "min_p": 0.05}]
    if mode >= SampleMode.UNLIMITED:
        limits.append({})
    if mode is SampleMode.LIMITED:
        limits += [{"top_p": 0.8}, {"min_p": 0.01}, {"top_p": 0.95, "min_p": 0.02}]
    rng = np.random.default_rng(4)
    asked = {"temperature": 0.8, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    rows = [asked | limits[i % len(limits)] for i in range(60)]
    arguments = {
        "temperature": jnp.array([row["temperature"] for row in rows], jnp.float32),
        "top_k": jnp.array([row["top_k"] for row in rows], jnp.int32),
        "top_p": jnp.array([row["top_p"] for row in rows], jnp.float32),
        "min_p": jnp.array([row["min_p"] for row in rows], jnp.float32),
        "keys": keys_of(*range(60)),
    }
    logits = jnp.asarray(rng.normal(0, 2, (60, 500)), jnp.float32)
    least, most = (
        np.asarray(jitted(logits, mode=one, **arguments)).tolist()
        for one in (mode, SampleMode.FULL)
    )
    assert least == most
    assert len(set(least)) > 10


def adjusted_by_hand(logits, prompt, output, penalties, bias, banned):
    """One token after the other, as the sources say."""
    repetition, presence, frequency = penalties
    logits = logits.astype(np.float64).copy()
    for token in set(prompt) | set(output):
        logits[token] *= repetition if logits[token] <= 0 else 1 / repetition
    for token in set(output):
        logits[token] -= presence + frequency * output.count(token)
    for token, value in bias.items():
        logits[token] += value
    logits[list(banned)] = -np.inf
    return logits


def adjust_rows(logits, rows):
    vocab = logits.shape[1]
    counts = np.zeros(logits.shape, np.int32)
    bias_ids = np.full((len(rows), MAX_LOGIT_BIAS), vocab, np.int32)
    bias_values = np.zeros((len(rows), MAX_LOGIT_BIAS), np.float32)
    banned_ids = np.full((len(rows), MAX_BANNED), vocab, np.int32)
    for i, (prompt, output, _, bias, banned, _) in enumerate(rows):
        counts[i, list(set(prompt))] += 1
        np.add.at(counts[i], output, 2)
        bias_ids[i, : len(bias)], bias_values[i, : len(bias)] = list(bias), list(bias.values())
        banned_ids[i, : len(banned)] = list(banned)
    return np.asarray(
        adjust(
            jnp.asarray(logits),
            counts=jnp.asarray(counts),
            penalties=jnp.array([row[2] for row in rows], jnp.float32),
            bias_ids=jnp.asarray(bias_ids),
            bias_values=jnp.asarray(bias_values),
            banned_ids=jnp.asarray(banned_ids),
            ban=jnp.array([row[5] for row in rows]),
        )
    )


def test_scores_are_adjusted_as_by_hand():
    rng = np.random.default_rng(5)
    rows = [
        ([1, 2, 3], [3, 4, 4, 4], (1.5, 0.0, 0.0), {}, [], False),
        ([1, 2, 3], [3, 4, 4, 4], (1.0, 0.7, 0.0), {}, [], False),
        ([1, 2, 3], [3, 4, 4, 4], (1.0, 0.0, -0.3), {}, [], False),
        ([], [], (1.0, 0.0, 0.0), {0: 5.0, 39: -100.0}, [7, 39], True),
        ([], [], (1.0, 0.0, 0.0), {0: 5.0}, [7], False),
        ([9, 9], [9], (0.8, 1.1, 0.4), {9: 2.5}, [3], True),
        ([], [], (1.0, 0.0, 0.0), {}, [], False),
    ]
    logits = rng.normal(0, 3, (len(rows), 40)).astype(np.float32)
    got = adjust_rows(logits, rows)
    for i, (prompt, output, penalties, bias, banned, ban) in enumerate(rows):
        want = adjusted_by_hand(logits[i], prompt, output, penalties, bias, banned if ban else [])
        np.testing.assert_allclose(got[i], want, rtol=1e-6, atol=1e-6)
    assert np.array_equal(got[-1], logits[-1]), "a row that asks for nothing is left alone"


@pytest.mark.parametrize("width", [64 * 128 * 4, 64 * 128 * 4 + 1, 151_936])
def test_the_best_are_found_by_chunks(width):
    random = np.random.default_rng(width)
    rows = random.normal(size=(3, width)).astype(np.float32)
    rows[1] = np.sort(rows[1])  # all of the best in one chunk
    rows[2, 5:] = -np.inf  # fewer than are wanted
    values, ids = jax.jit(best_of, static_argnums=1)(rows, 64)
    wanted = -np.sort(-rows, axis=1)[:, :64]
    np.testing.assert_array_equal(values, wanted)
    np.testing.assert_array_equal(np.take_along_axis(rows, np.asarray(ids), axis=1), wanted)
    assert all(len(set(own)) == 64 for own in np.asarray(ids).tolist())
    assert ids[2, :5].tolist() == np.argsort(-rows[2, :5]).tolist()
