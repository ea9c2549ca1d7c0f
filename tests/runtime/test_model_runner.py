"""Rows of the device's answer become tokens."""

import numpy as np
import pytest

from runtime.model_runner import read_rows
from runtime.packing import float_bits
from runtime.request import MAX_LOGPROBS
from runtime.step import RESULT_COLUMNS
from runtime.step_plan import SampledToken


def row(token, finite, logprob, best):
    """A row as runtime/step.py writes it: `best` alternatives, then none."""
    out = np.zeros(RESULT_COLUMNS, np.int32)
    out[:2] = token, finite
    out[2] = float_bits(np.array([logprob]))[0]
    out[3 : 3 + MAX_LOGPROBS] = -1
    for i, (alternative, value) in enumerate(best):
        out[3 + i] = alternative
        out[3 + MAX_LOGPROBS + i] = float_bits(np.array([value]))[0]
    return out


BEST = [(7, -0.5), (3, -1.0), (9, -1.5)]


@pytest.mark.parametrize("finite", [0, 1])
def test_without_logprobs_only_the_token_is_read(finite):
    assert read_rows(row(7, finite, -0.5, BEST)[None], [None]) == [SampledToken(7, bool(finite))]


def test_as_many_alternatives_are_read_as_asked_for():
    asked = {0: (), 2: tuple(BEST[:2]), 3: tuple(BEST)}
    for count, best in asked.items():
        assert read_rows(row(7, 1, -0.5, BEST)[None], [count]) == [
            SampledToken(7, True, -0.5, best)
        ]


def test_a_vocabulary_smaller_than_asked_for_gives_what_it_has():
    (token,) = read_rows(row(7, 1, -0.5, BEST)[None], [20])
    assert token.top_logprobs == tuple(BEST)
