"""Splits as one: right in the interpreter, without races, and it lowers for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.combine_splits import combine_splits, combine_splits_reference
from tests.hopper import lower_for_h200


@pytest.mark.parametrize(("splits", "group", "head_dim"), [(2, 7, 128), (5, 8, 128), (3, 7, 64)])
def test_it_is_the_reference(splits, group, head_dim):
    rng = np.random.default_rng(splits)
    out = rng.normal(size=(2, 2, splits, 8, head_dim))
    tops, totals = rng.normal(size=(2, 2, splits, 8)) * 10, rng.uniform(1, 50, (2, 2, splits, 8))
    tops[0, 0, -1], totals[0, 0, -1], out[0, 0, -1] = -1e30, 0, 0  # a split without keys
    tops[1, 1], totals[1, 1], out[1, 1] = -1e30, 0, 0  # a row of padding
    operands = [jnp.asarray(x, jnp.float32) for x in (out, tops, totals)]
    interpret = plgpu.InterpretGPUParams(detect_races=True)
    ours = combine_splits(*operands, group=group, dtype=jnp.float32, interpret=interpret)
    wanted = combine_splits_reference(*operands, group=group, dtype=jnp.float32)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)
    assert not np.asarray(ours[1, 1]).any()


def test_it_lowers_for_a_gpu_without_one():
    shapes = (1, 4, 32, 8, 128), (1, 4, 32, 8), (1, 4, 32, 8)
    operands = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    run = jax.jit(lambda *x: combine_splits(*x, group=7, dtype=jnp.bfloat16))
    assert "mosaic_gpu" in lower_for_h200(run, *operands).as_text()
