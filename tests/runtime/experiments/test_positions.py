"""Places in a context: what a caller may write, and which tokens it means."""

import numpy as np
import pytest

from runtime.experiments.positions import listed_places, places


@pytest.mark.parametrize(
    "positions",
    [slice(-50, None, 2), slice(0, -50), slice(-50, -2), slice(1, 9, 3), slice(-3, None)],
)
@pytest.mark.parametrize("num_prompt", [3, 8])
def test_slices_mean_what_they_mean_in_python(positions, num_prompt):
    expected = list(range(num_prompt))[positions]
    assert listed_places(positions, num_prompt, num_prompt).tolist() == expected
    bounds = places(positions, num_prompt)
    # a context grows on behind its prompt
    stop = num_prompt if bounds.stop is None else min(num_prompt, bounds.stop)
    assert list(range(bounds.start, stop, bounds.step)) == expected


def test_a_slice_before_the_start_is_none_of_a_longer_run():
    assert listed_places(slice(0, -50), 3, 100).tolist() == []


def test_numbers_of_any_kind_are_places():
    for positions in (-1, np.int32(2), [2], (-1,), np.array([2]), range(2, 3)):
        assert places(positions, 3).tolist() == [2]
    assert places([], 3).tolist() == []
