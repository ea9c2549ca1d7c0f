"""A token is drawn from what top_k, top_p and min_p keep, as often as its share says."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.qwen2 import Head, RMSNorm
from models.weights import Dense
from runtime.buckets import SampleMode
from runtime.packing import float_bits
from runtime.request import MAX_LOGIT_BIAS, MAX_LOGPROBS
from runtime.sampling import adjust, choose
from runtime.slots import MAX_BANNED, empty_slots
from runtime.step import sample, unpack_mask
from runtime.step_input import SAMPLE_COLUMNS
from runtime.thresholds import highest_threshold, kept

OPTIMISED = True  # many draws
NUM_DRAWS = 1_500

jitted = jax.jit(choose, static_argnames="mode")
jitted_kept = jax.jit(kept, static_argnames="bits")
jitted_threshold = jax.jit(highest_threshold, static_argnames="bits")


def keys_of(*numbers: int) -> jax.Array:
    return jax.vmap(jax.random.key)(jnp.array(numbers))


def draw(logits: np.ndarray, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=0):
    """One token for each row, every row with its own key."""
    rows = len(logits)
    return np.asarray(
        jitted(
            jnp.asarray(logits, jnp.float32),
            mode=SampleMode.LIMITED,
            temperature=jnp.full(rows, temperature, jnp.float32),
            top_k=jnp.full(rows, top_k, jnp.int32),
            top_p=jnp.full(rows, top_p, jnp.float32),
            min_p=jnp.full(rows, min_p, jnp.float32),
            keys=keys_of(*range(seed * rows, (seed + 1) * rows)),
        )
    )


def kept_probabilities(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) -> np.ndarray:
    """The distribution that is meant, by sorting."""
    z = logits.astype(np.float64) / temperature
    probs = np.exp(z - z.max())
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    if top_k:
        probs[order[top_k:]] = 0
    share = np.cumsum(probs[order])
    before = share - probs[order]
    if top_p < 1:
        probs[order[before >= top_p * probs.sum()]] = 0
    probs[probs < min_p * probs.max()] = 0
    return probs / probs.sum()


def scores(vocab: int, spread: float) -> np.ndarray:
    return np.random.default_rng(vocab).normal(0, spread, vocab).astype(np.float32)


LIMITS = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 64},
    {"top_k": 300},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"min_p": 0.3},
    {"min_p": 0.001},
    {"top_k": 20, "top_p": 0.7},
    {"top_k": 200, "top_p": 0.8, "min_p": 0.02},
    {"top_p": 0.9, "min_p": 0.05},
    {"top_k": 10, "top_p": 0.9, "temperature": 0.5},
    {"temperature": 3.0},
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("spread", [0.1, 4.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("vocab", [50, 5_000])
def test_draws_follow_the_kept_distribution(vocab, spread, limits):
    logits = scores(vocab, spread)
    probs = kept_probabilities(logits, **limits)
    tokens = draw(np.tile(logits, (NUM_DRAWS, 1)), **limits)
    counts = np.bincount(tokens, minlength=vocab)
    # a share so near the limit that rounding decides is allowed either way
    nearly = kept_probabilities(logits, **{**limits, **_wider(limits)})
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


def _wider(limits: dict[str, float]) -> dict[str, float]:
    return {
        name: {"top_p": value + 1e-4, "min_p": value * (1 - 1e-4)}[name]
        for name, value in limits.items()
        if name in ("top_p", "min_p")
    }


@pytest.mark.parametrize("vocab", [50, 5_000])
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
    logits = np.zeros((2, 100), np.float32)
    logits[:, [13, 57]] = 3.0
    assert draw(logits, temperature=0.0).tolist() == [13, 13]


def test_drawn_ties_are_all_among_the_best():
    logits = np.zeros((400, 1_000), np.float32)
    logits[:, [13, 57, 900]] = 9.0
    assert set(draw(logits, top_k=1).tolist()) <= {13, 57, 900}
    assert set(draw(logits, top_k=3).tolist()) == {13, 57, 900}


def test_equal_scores_of_a_whole_vocabulary_are_a_choice_of_all():
    tokens = draw(np.zeros((2_000, 5_000), np.float32), top_k=4_999)
    assert len(set(tokens.tolist())) > 1_400  # 2,000 draws of 5,000 meet 1,648 on average


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
                mode=SampleMode.LIMITED,
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


@pytest.mark.parametrize("mode", [SampleMode.CANDIDATES, SampleMode.UNLIMITED])
def test_a_row_draws_the_same_in_every_mode_that_is_enough(mode):
    limits = [{"temperature": 0.0}, {"top_k": 1}, {"top_k": 40, "top_p": 0.6, "min_p": 0.05}]
    if mode is SampleMode.UNLIMITED:
        limits.append({})
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
        for one in (mode, SampleMode.LIMITED)
    )
    assert least == most
    assert len(set(least)) > 10


@pytest.mark.parametrize("bits", [1, 4])
def test_the_highest_threshold_is_that_of_a_sorted_row(bits):
    rng = np.random.default_rng(6)
    order = rng.integers(0, 2**32, (3, 200), dtype=np.uint32)
    order[0, :5] = [0, 0, 2**31 - 1, 2**31, 2**32 - 1]
    weights = rng.integers(0, 4, (3, 200)).astype(np.float32)
    for wanted in (1.0, 37.0, float(weights.sum(axis=1).min()), 10_000.0):
        found = jitted_threshold(
            jnp.asarray(order), jnp.asarray(weights), jnp.full(3, wanted), bits=bits
        )
        for row in range(3):
            by_rank = np.argsort(-order[row].astype(np.int64))
            reached = np.cumsum(weights[row][by_rank]) >= wanted
            best = order[row][by_rank[reached.argmax()]] if reached.any() else 0
            assert int(found[row]) == best


@pytest.mark.parametrize("bits", [1, 4])
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
        nearly = kept_probabilities(own, **{**limits, **_wider(limits)})
        assert not (row & (nearly == 0)).any() and row[probs > 0].all()


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


# --- the sample program -----------------------------------------------------------------------

VOCAB, WIDTH, SLOTS = 30, 8, 4


def head() -> Head:
    rng = np.random.default_rng(1)
    values = jnp.asarray(rng.normal(0, 1, (VOCAB, WIDTH)), jnp.float32)
    return Head(RMSNorm(jnp.ones(WIDTH), 1e-6), Dense(values, ("vocab", None), num_out=1))


def slots(**changes):
    state = empty_slots(SLOTS, pages_per_request=2, vocab_size=VOCAB)
    seeds = jnp.arange(3 * SLOTS, dtype=jnp.uint32).reshape(SLOTS, 3)
    sampling = jnp.tile(jnp.array([1.0, 1.0, 0.0]), (SLOTS, 1))
    return replace(state, seeds=seeds, sampling=sampling, **changes)


@jax.jit
def sample_once(state, hidden, rows, mask):
    return sample(head(), state, hidden, rows, mask, gather=lambda x: x, mode=SampleMode.FULL)


def run_sample(state, hidden, rows, mask=(-1,) * SLOTS):
    """Rows of slot, position, ban and, where one is, the given token; a word of the mask each."""
    padded = np.full((SLOTS, SAMPLE_COLUMNS), (SLOTS, 0, 0, -1), np.int32)
    for into, row in zip(padded, rows, strict=False):
        into[: len(row)] = row
    state, result = sample_once(
        state, jnp.asarray(hidden, jnp.float32), jnp.asarray(padded), jnp.array(mask)[:, None]
    )
    return state, np.asarray(result)


HIDDEN = np.random.default_rng(2).normal(0, 1, (SLOTS, WIDTH)).astype(np.float32)
ROWS = np.array([[2, 5, 0], [0, 9, 0], [3, 1, 0], [SLOTS, 0, 0]])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_flagged_and_touches_no_other(broken):
    _, whole = run_sample(slots(), HIDDEN, ROWS)
    spoiled = HIDDEN.copy()
    spoiled[1] = broken
    state, result = run_sample(slots(), spoiled, ROWS)
    assert whole[:3, 1].tolist() == [1, 1, 1]
    assert result[:3, 1].tolist() == [1, 0, 1]
    assert np.array_equal(result[[0, 2]], whole[[0, 2]])
    assert 0 <= result[1, 0] < VOCAB
    assert int(state.last_token[2]) == whole[0, 0]


def test_a_slot_remembers_its_token_and_padding_remembers_nothing():
    before = slots(last_token=jnp.full(SLOTS, -3, jnp.int32))
    state, result = run_sample(before, HIDDEN, ROWS)
    assert state.last_token.tolist() == [result[1, 0], -3, result[0, 0], result[2, 0]]
    assert int(state.counts.sum()) == 0  # nobody asked for penalties


def test_tokens_are_counted_where_penalties_are_asked_for():
    state = slots(has_extras=jnp.array([False, False, True, True]))
    state, result = run_sample(state, HIDDEN, ROWS)
    want = np.zeros((SLOTS, VOCAB), np.int32)
    want[2, result[0, 0]] = want[3, result[2, 0]] = 2
    assert np.array_equal(state.counts, want)


def test_a_token_depends_on_seed_choice_and_position_only():
    _, result = run_sample(slots(), HIDDEN, ROWS)
    moved = slots()
    order = jnp.array([2, 1, 0, 3])
    moved = replace(moved, seeds=moved.seeds[order])
    rows = np.array([[2, 9, 0], [0, 5, 0]])
    _, again = run_sample(moved, HIDDEN[[1, 0, 2, 3]], rows)
    assert np.array_equal(again[:2], result[[1, 0]])


def test_logprobs_are_those_of_the_unscaled_scores():
    state = slots(
        has_extras=jnp.ones(SLOTS, bool),
        bias_ids=slots().bias_ids.at[:, 0].set(3),
        bias_values=slots().bias_values.at[:, 0].set(50.0),
    )
    _, result = run_sample(state, HIDDEN, ROWS)
    norm = HIDDEN / np.sqrt((HIDDEN**2).mean(axis=1, keepdims=True) + 1e-6)
    logits = norm @ np.asarray(head().weight.values[...]).T
    logprobs = np.asarray(jax.nn.log_softmax(logits, axis=1))
    for i in range(2):
        assert result[i, 0] == 3  # the bias chose it
        floats = result[i, 2:].view(np.float32)
        assert floats[0] == pytest.approx(logprobs[i, 3], abs=1e-5)
        ids = result[i, 3 : 3 + MAX_LOGPROBS]
        best = np.argsort(-logprobs[i])[:MAX_LOGPROBS]
        assert ids.tolist() == best.tolist()
        np.testing.assert_allclose(floats[1 + MAX_LOGPROBS :], logprobs[i][best], atol=1e-5)


def test_stop_tokens_are_banned_only_while_the_row_says_so():
    state = slots(
        has_extras=jnp.ones(SLOTS, bool),
        banned_ids=slots().banned_ids.at[:, 0].set(3),
        bias_ids=slots().bias_ids.at[:, 0].set(3),
        bias_values=slots().bias_values.at[:, 0].set(50.0),
    )
    rows = np.array([[0, 5, 1], [1, 5, 0]])
    _, result = run_sample(state, HIDDEN, rows)
    assert result[0, 0] != 3 and result[1, 0] == 3
    assert result[:2, 1].tolist() == [1, 1]


def test_a_given_token_is_scored_and_leaves_no_trace():
    before = slots(has_extras=jnp.ones(SLOTS, bool), last_token=jnp.full(SLOTS, -3, jnp.int32))
    state, result = run_sample(before, HIDDEN, [[2, 5], [SLOTS, 0, 0, 17], [SLOTS, 0, 0, 0]])
    assert result[1:3, 0].tolist() == [17, 0]
    norm = HIDDEN / np.sqrt((HIDDEN**2).mean(axis=1, keepdims=True) + 1e-6)
    logprobs = np.asarray(
        jax.nn.log_softmax(norm @ np.asarray(head().weight.values[...]).T, axis=1)
    )
    for row, token in ((1, 17), (2, 0)):
        assert result[row, 2:3].view(np.float32)[0] == pytest.approx(logprobs[row, token], abs=1e-5)
    assert state.last_token.tolist() == [-3, -3, result[0, 0], -3]
    assert int(state.counts.sum()) == 2


def test_a_mask_leaves_the_tokens_it_names():
    masks = [1 << 4 | 1 << 29, -1, 1 << 11, -1]
    for position in range(20):
        _, free = run_sample(slots(), HIDDEN, [[0, position], [1, position], [2, position]])
        _, result = run_sample(
            slots(), HIDDEN, [[0, position], [1, position], [2, position]], masks
        )
        assert result[0, 0] in (4, 29) and result[2, 0] == 11
        assert result[1].tolist() == free[1].tolist()
        assert result[:3, 1].tolist() == [1, 1, 1]


def test_bits_of_masks_are_read_from_the_lowest():
    rng = np.random.default_rng(8)
    for vocab in (5, 32, 33, 70):
        want = rng.random((3, vocab)) < 0.5
        packed = np.packbits(want, axis=1, bitorder="little")
        words = np.zeros((3, -(-vocab // 32) * 4), np.uint8)
        words[:, : packed.shape[1]] = packed
        assert np.array_equal(unpack_mask(jnp.asarray(words.view(np.int32)), vocab), want)


def test_bits_of_floats_survive_the_way():
    values = np.array([0.1, -0.0, 1e-30, np.inf], np.float32)
    assert np.array_equal(float_bits(values).view(np.float32), values)
