"""The gather of a few words lowers for a GPU, and takes so many; the rest needs cards."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import one_shot_gather
from tests.hopper import lower_for_h200


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
