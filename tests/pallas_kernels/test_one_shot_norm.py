"""What sums over devices are compiled from, and what the host sends; the rest needs cards."""

import operator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.mesh import make_mesh
from pallas_kernels import one_shot_gather, peer_packets
from pallas_kernels.one_shot_norm import MAX_CALLS, inbox_bytes, one_shot_norm, takes
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
from runtime.exchange import MAX_ROWS, NUM_STEPS, Exchange
from tests.hopper import lower_for_h200


@pytest.mark.parametrize("num_devices", [1, 2, 8])
@pytest.mark.parametrize(("rows", "num_terms"), [(1, 1), (MAX_ROWS, 4)])
def test_it_lowers_for_cuda(num_devices, rows, num_terms):
    shape = jax.ShapeDtypeStruct
    run = jax.jit(partial(one_shot_norm, eps=1e-6, max_rows=MAX_ROWS))
    lowered = lower_for_h200(
        run,
        shape((rows, 3584), jnp.bfloat16),
        shape((num_terms, rows, 3584), jnp.bfloat16),
        shape((3584,), jnp.float32),
        inboxes=shape((num_devices, 2), jnp.int32),
        own=shape((1,), jnp.int32),
        step=shape((1,), jnp.int32),
        number=shape((1,), jnp.int32),
    )
    assert "mosaic_gpu" in lowered.as_text()


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


def test_what_it_takes():
    assert takes(width=3584, num_calls=56)
    assert not takes(width=896, num_calls=48) and not takes(width=3584, num_calls=MAX_CALLS + 1)


def test_peers_say_where_the_inboxes_are_and_which_step_it_is():
    exchange = Exchange(make_mesh(1), width=512)
    assert exchange.memory.nbytes == inbox_bytes(1, MAX_ROWS, 512) + one_shot_gather.inbox_bytes(1)
    address = np.asarray(exchange.peers.inboxes).view(np.uint64).item()
    assert address == exchange.memory.unsafe_buffer_pointer()
    assert exchange.peers.own.tolist() == [0]
    assert exchange.peers.next().step.tolist() == [1]
    last = replace(exchange.peers, step=jnp.array([NUM_STEPS - 1]))
    assert last.next().step.tolist() == [0]


@pytest.mark.parametrize("num_words", [2, one_shot_gather.MAX_WORDS])
def test_the_gather_lowers_for_cuda(num_words):
    shape = jax.ShapeDtypeStruct
    lowered = lower_for_h200(
        jax.jit(partial(one_shot_gather.one_shot_gather, first_byte=4096)),
        shape((num_words,), jnp.int32),
        inboxes=shape((2, 2), jnp.int32),
        own=shape((1,), jnp.int32),
        step=shape((1,), jnp.int32),
    )
    assert "mosaic_gpu" in lowered.as_text()


def test_more_words_than_fit_are_refused():
    words = jnp.zeros(one_shot_gather.MAX_WORDS + 1, jnp.int32)
    with pytest.raises(ValueError, match="at most 16384 words, got 16385"):
        one_shot_gather.one_shot_gather(
            words,
            inboxes=jnp.zeros((2, 2), jnp.int32),
            own=jnp.zeros(1, jnp.int32),
            step=jnp.zeros(1, jnp.int32),
            first_byte=0,
        )
