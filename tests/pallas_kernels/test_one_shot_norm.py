"""The sums over devices lower for a GPU, and what they take; the rest needs cards."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.one_shot_norm import MAX_CALLS, one_shot_norm, takes
from tests.hopper import lower_for_h200

MAX_ROWS = 128


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


def test_what_it_takes():
    assert takes(width=3584, num_calls=56)
    assert not takes(width=896, num_calls=48) and not takes(width=3584, num_calls=MAX_CALLS + 1)
