"""The sample program: what a row gets, and what its slot remembers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.qwen2 import Head, RMSNorm
from models.weights import Dense
from runtime.buckets import SampleMode
from runtime.request import MAX_LOGPROBS
from runtime.slots import empty_slots
from runtime.step import sample, unpack_mask

VOCAB, WIDTH, SLOTS = 30, 8, 4


def head() -> Head:
    rng = np.random.default_rng(1)
    values = jnp.asarray(rng.normal(0, 1, (VOCAB, WIDTH)), jnp.float32)
    return Head(RMSNorm(jnp.ones(WIDTH), 1e-6), Dense(values, ("vocab", None)))


def slots(**changes):
    state = empty_slots(SLOTS, pages_per_request=2, vocab_size=VOCAB)
    seeds = jnp.arange(3 * SLOTS, dtype=jnp.uint32).reshape(SLOTS, 3)
    sampling = jnp.tile(jnp.array([1.0, 1.0, 0.0]), (SLOTS, 1))
    return replace(state, seeds=seeds, sampling=sampling, **changes)


@jax.jit
def sample_once(state, hidden, mask):
    return sample(head(), state, hidden, mask, num_rows=SLOTS, parts=None, mode=SampleMode.FULL)


def run_sample(state, hidden, rows, mask=(-1,) * SLOTS):
    """Rows of slot, position, ban and, where one is, the given token; a word of the mask each."""
    samples = np.full(state.samples.shape, (SLOTS, 0, 0, -1), np.int32)
    for into, row in zip(samples, rows, strict=False):
        into[: len(row)] = row
    state, result = sample_once(
        replace(state, samples=jnp.asarray(samples)),
        jnp.asarray(hidden, jnp.float32),
        jnp.array(mask)[:, None],
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
