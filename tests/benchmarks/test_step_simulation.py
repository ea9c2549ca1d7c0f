"""The real scheduler around a formula: everybody is served, and short steps make short waits."""

import pytest

from benchmarks.step_simulation import simulate


def test_short_steps_make_short_waits():
    long, short = (simulate(8, 24, 512, 32, mixed) for mixed in (2048, 512))
    for clients in (long, short):
        assert len(clients.first) == len(clients.sent) == 24
        assert len(clients.gaps) == 24 * 31
    assert max(short.gaps) < max(long.gaps) / 2


def test_one_client_waits_for_its_own_prompt_alone():
    clients = simulate(1, 3, 512, 8, 512)
    waits = [clients.first[number] - sent for number, sent in enumerate(clients.sent)]
    assert waits == pytest.approx([waits[0]] * 3)
