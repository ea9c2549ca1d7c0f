"""What the device remembers of a request, and that it forgets the one before."""

import jax
import numpy as np

from runtime.packing import float_bits
from runtime.slots import empty_slots
from runtime.step import set_extras
from runtime.step_input import StepShape, extras_packing

SHAPE = StepShape(num_slots=3, pages_per_request=2, vocab_size=20)


def extras(slot: int, prompt: list[int], output: list[int]) -> np.ndarray:
    packing = extras_packing(SHAPE)
    vector = np.zeros(packing.size, np.int32)
    into = packing.views(vector)
    into["slot"][0], into["num_prompt"][0] = slot, len(prompt)
    into["penalties"][:] = float_bits(np.array([1.5, 0.5, 0.25]))
    for name in ("bias_ids", "banned_ids", "token_ids"):
        into[name].fill(SHAPE.vocab_size)
    into["bias_ids"][0] = 4
    into["bias_values"][:1] = float_bits(np.array([2.5]))
    into["banned_ids"][0] = 6
    into["token_ids"][: len(prompt + output)] = prompt + output
    return vector


def put(state, *arguments):
    unpack = extras_packing(SHAPE).unpack
    return jax.jit(lambda s, v: set_extras(s, unpack(v)))(state, extras(*arguments))


def test_empty_slots_read_page_0_and_ask_for_nothing():
    state = empty_slots(3, pages_per_request=2, vocab_size=20)
    assert state.page_table.shape == (3, 2) and not state.page_table.any()
    assert not state.has_extras.any() and not state.counts.any()
    assert np.all(state.bias_ids == 20) and np.all(state.banned_ids == 20)


def test_counts_tell_prompt_from_answer():
    state = put(empty_slots(3, pages_per_request=2, vocab_size=20), 1, [3, 3, 5], [5, 7, 7])
    want = np.zeros((3, 20), np.int32)
    want[1, [3, 5, 7]] = [1, 1 + 2, 4]  # once if in the prompt, twice for each time in the answer
    assert np.array_equal(state.counts, want)


def test_extras_touch_their_slot_alone():
    before = empty_slots(3, pages_per_request=2, vocab_size=20)
    state = put(before, 2, [3], [])
    assert state.penalties[2].tolist() == [1.5, 0.5, 0.25]
    assert (int(state.bias_ids[2, 0]), float(state.bias_values[2, 0])) == (4, 2.5)
    assert state.banned_ids[2, :2].tolist() == [6, 20]
    for name in ("penalties", "counts", "bias_ids", "bias_values", "banned_ids"):
        assert np.array_equal(getattr(state, name)[:2], getattr(before, name)[:2]), name


def test_a_new_request_inherits_nothing():
    state = put(empty_slots(3, pages_per_request=2, vocab_size=20), 1, [3, 3, 5], [5, 7, 7])
    state = put(state, 1, [8], [])
    assert np.flatnonzero(state.counts[1]).tolist() == [8]
