"""What sums over devices are compiled from, and what the host sends; the rest needs cards."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.mesh import make_mesh
from pallas_kernels.one_shot_norm import (
    MAX_CALLS,
    _receive_ptx,
    _send_ptx,
    inbox_bytes,
    one_shot_norm,
    takes,
)
from runtime import exchange
from runtime.exchange import MAX_ROWS, Exchange
from runtime.step_input import inbox_packing
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


def test_the_host_sends_where_the_inboxes_are_and_counts_steps(monkeypatch):
    monkeypatch.setattr(exchange, "NUM_STEPS", 3)
    memory = Exchange(make_mesh(1), width=512)
    assert memory._memory.nbytes == inbox_bytes(1, MAX_ROWS, 512)
    packing = inbox_packing(1)
    seen = []
    for _ in range(4):
        vector = np.zeros(packing.size, np.int32)
        memory.fill(packing.views(vector))
        seen.append(vector.tolist())
    assert [words[-1] for words in seen] == [1, 2, 0, 1]
    (address,) = {np.array(words[:2], np.int32).view(np.uint64).item() for words in seen}
    assert address == memory._memory.unsafe_buffer_pointer()
    assert inbox_packing(0).size == 0
