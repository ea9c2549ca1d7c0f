"""Where the vectors of a thread lie in what it sends, and the PTX that sends and waits."""

import operator
from types import SimpleNamespace

import pytest

from pallas_kernels import peer_packets
from pallas_kernels.peer_packets import (
    LINE,
    NAN_PAIR,
    Group,
    Order,
    _receive_ptx,
    _send_ptx,
    groups,
    num_packets,
)


@pytest.mark.parametrize("num_vectors", [1, 3, 4, 7, 10, 15, 16, 30])
def test_every_vector_has_a_place_and_every_line_a_flag(num_vectors):
    """For each thread of a line: its vectors in the halves of its stores, but for its flag's."""
    found = groups(num_vectors)
    assert sum(group.count for group in found) == num_vectors
    assert num_packets(num_vectors) == 128 * sum(group.num_stores for group in found)
    for group in found:
        flags = {thread % group.num_stores for thread in range(LINE)}
        assert flags == set(range(group.num_stores))
        assert group.count + 1 <= 2 * group.num_stores <= group.count + 2


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 15])
def test_vectors_come_back_from_the_stores_of_every_thread(count, monkeypatch):
    """With numbers for MLIR's values."""
    compare = {Order.ugt: operator.gt, Order.ult: operator.lt, Order.ule: operator.le}
    numbers = SimpleNamespace(
        cmpi=lambda order, a, b: compare[order](a, b), select=lambda which, a, b: a if which else b
    )
    monkeypatch.setattr(peer_packets, "arith", numbers)
    monkeypatch.setattr(peer_packets, "_int32", int)
    vectors = [[f"{i} low", f"{i} high"] for i in range(count)]
    for place in range(count // 2 + 1):
        words = peer_packets._arranged(vectors, place, "flag")
        assert words[4 * place + 2 : 4 * place + 4] == ["flag", "flag"]
        assert sorted(w for w in words if w != "flag") == sorted(sum(vectors, []))
        assert peer_packets._vectors(words, place, count) == vectors


def test_a_device_sends_to_the_others_and_waits_for_flags():
    assert _send_ptx(2, 2, receiver=1).splitlines() == [
        "{",
        ".reg .pred other;",
        "setp.ne.b32 other, $1, 1;",
        "@other st.volatile.global.v4.b32 [$0+4096], {$2, $3, $4, $5};",
        "@other st.volatile.global.v4.b32 [$0+6144], {$6, $7, $8, $9};",
        "}",
    ]
    text = _receive_ptx(Group(0, 3, 1), num_devices=2, sender_stride=1024)
    # addresses: the second sender's packets, then its second store
    assert f"{{w12, w13, w14, w15}}, [$16+{(1024 + 2 * 128) * 16}];" in text
    assert "selp.b32 seen, w14, seen, at1;" in text and "setp.eq.b32 at1, $18, 1;" in text
    assert "vote.sync.any.pred waits, waits, 0xffffffff;" in text
    assert all(f"selp.b32 ${i}, {NAN_PAIR}, w{i}, waits;" in text for i in range(16))
