"""Addition and norm in one kernel: right in the interpreter, and it lowers for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.add_norm import add_norm, hopper_add_norm
from tests.hopper import lower_for_h200


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(("num_rows", "width"), [(1, 512), (3, 896), (2, 100)])
def test_it_is_addition_and_norm(num_rows, width, dtype):
    rng = np.random.default_rng(width)
    x, scale = jnp.asarray(rng.normal(size=(num_rows, width)), dtype), rng.normal(size=width)
    terms = jnp.asarray(rng.normal(size=(num_rows, num_rows, width)), jnp.float32)
    scale = jnp.asarray(scale, jnp.float32)
    interpret = plgpu.InterpretGPUParams(detect_races=True)
    added, normed = hopper_add_norm(x, terms, scale, 1e-6, interpret=interpret)
    wanted, wanted_norm = add_norm(x, terms, scale, 1e-6)
    # sums in another order: the last of 8 bits may differ
    tolerance = 2**-8 if dtype == jnp.bfloat16 else 1e-6
    for ours, theirs in ((added, wanted), (normed, wanted_norm)):
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("width", [896, 3584])
def test_it_lowers_for_a_gpu_without_one(width):
    shapes = [((4, width), jnp.bfloat16), ((2, 4, width), jnp.float32), ((width,), jnp.float32)]
    operands = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    run = jax.jit(lambda *x: hopper_add_norm(*x, 1e-6))
    assert "mosaic_gpu" in lower_for_h200(run, *operands).as_text()
