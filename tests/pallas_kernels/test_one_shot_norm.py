"""What sums over devices are compiled from, and what the host sends; the rest needs cards."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.mesh import make_mesh
from pallas_kernels import one_shot_gather
from pallas_kernels.one_shot_norm import MAX_CALLS, inbox_bytes, one_shot_norm, takes
from pallas_kernels.peer_packets import _receive_ptx, _send_ptx
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
        place=shape((2,), jnp.int32),
        number=shape((1,), jnp.int32),
    )
    assert "mosaic_gpu" in lowered.as_text()


def test_every_word_has_a_flag_behind_it():
    assert _send_ptx([0, 2048]).splitlines() == [
        "st.volatile.global.v4.b32 [$0+0], {$2, $1, $3, $1};",
        "st.volatile.global.v4.b32 [$0+2048], {$4, $1, $5, $1};",
    ]
    text = _receive_ptx([0, 2048])
    assert "ld.volatile.global.v4.b32 {w2, f2, w3, f3}, [$4+2048];" in text
    for i in range(4):  # each flag is looked at, each word is a result
        assert f"f{i}, $5" in text and f"selp.b32 ${i}, " in text


def test_what_it_takes():
    assert takes(width=3584, num_calls=56)
    assert not takes(width=896, num_calls=48) and not takes(width=3584, num_calls=MAX_CALLS + 1)


def test_peers_say_where_the_inboxes_are_and_which_step_it_is():
    exchange = Exchange(make_mesh(1), width=512)
    assert exchange.memory.nbytes == inbox_bytes(1, MAX_ROWS, 512) + one_shot_gather.inbox_bytes(1)
    address = np.asarray(exchange.peers.inboxes).view(np.uint64).item()
    assert address == exchange.memory.unsafe_buffer_pointer()
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
        place=shape((2,), jnp.int32),
    )
    assert "mosaic_gpu" in lowered.as_text()


def test_more_words_than_fit_are_refused():
    words = jnp.zeros(one_shot_gather.MAX_WORDS + 1, jnp.int32)
    with pytest.raises(ValueError, match="at most 16384 words, got 16385"):
        one_shot_gather.one_shot_gather(
            words, inboxes=jnp.zeros((2, 2), jnp.int32), place=jnp.zeros(2, jnp.int32), first_byte=0
        )
