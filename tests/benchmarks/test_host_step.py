"""The benchmark of the host's part of a step measures decode steps of the whole batch."""

from benchmarks.host_step import measure


def test_every_part_of_a_step_is_measured():
    parts = measure(8, 3)
    assert list(parts) == ["schedule", "make_step_input", "update"]
    assert all(seconds > 0 for seconds in parts.values())
