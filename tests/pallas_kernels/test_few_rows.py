"""Products with a few rows: right in the interpreter, without races, and they lower for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.few_rows import TuningConfig, choose_config, few_rows_product
from pallas_kernels.multiply import hopper_multiply, multiply, num_splits
from tests.hopper import lower_for_h200


def factors(num_rows, num_out, num_in, dtype=jnp.bfloat16):
    rng = np.random.default_rng(num_rows)
    x, matrix = rng.normal(size=(num_rows, num_in)), rng.normal(size=(num_out, num_in))
    return jnp.asarray(x, dtype), jnp.asarray(matrix, dtype)


@pytest.mark.parametrize(("num_rows", "splits", "stages"), [(1, 1, 2), (3, 2, 2), (17, 2, 4)])
def test_it_is_the_reference(num_rows, splits, stages):
    x, matrix = factors(num_rows, 128, 1024)
    out = few_rows_product(
        x, matrix,
        config=TuningConfig(128, stages, splits),
        interpret=plgpu.InterpretGPUParams(detect_races=True),
    )  # fmt: skip
    assert out.shape == (splits, num_rows, 128) and out.dtype == jnp.float32
    np.testing.assert_allclose(out.sum(0), multiply(x, matrix)[0], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("num_rows", [1, 8, 32])
def test_it_lowers_for_a_gpu_without_one(num_rows):
    x, matrix = (jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((num_rows, 18944), (3584, 18944)))
    config = choose_config(*matrix.shape)
    run = jax.jit(lambda x, m: few_rows_product(x, m, config=config))
    assert "mosaic_gpu" in lower_for_h200(run, x, matrix).as_text()


@pytest.mark.parametrize(
    ("shape", "splits"),
    [
        ((3584, 18944), 2),
        ((3584, 3584), 2),
        ((1024, 8192), 8),
        ((4608, 3584), 1),
        ((8512, 3584), None),
        ((896, 4864), None),
        ((65, 1024), None),
    ],
)
def test_a_configuration_for_matrices_of_few_rows(shape, splits):
    config = choose_config(*shape)
    assert (config and config.num_splits) == splits


@pytest.mark.parametrize(
    ("rows", "out", "columns", "dtype", "message"),
    [
        (33, 64, 1024, jnp.bfloat16, "at most 32 rows, got 33"),
        (1, 64, 1024, jnp.float32, "must have one 16-bit type"),
        (1, 65, 1024, jnp.bfloat16, "does not divide a matrix"),
        (1, 64, 1000, jnp.bfloat16, "does not divide a matrix"),
    ],
)
def test_what_it_does_not_take_is_named(rows, out, columns, dtype, message):
    x, matrix = factors(rows, out, columns, dtype)
    with pytest.raises(ValueError, match=message):
        few_rows_product(x, matrix, config=TuningConfig())


def test_one_row_and_many_rows_and_wide_numbers_are_the_plain_product():
    for rows, out, columns, dtype in (
        (1, 96, 80, jnp.bfloat16),
        (40, 64, 512, jnp.bfloat16),
        (2, 64, 512, jnp.float32),
    ):
        x, matrix = factors(rows, out, columns, dtype)
        ours = hopper_multiply(x, matrix).sum(axis=0)
        np.testing.assert_allclose(ours, multiply(x, matrix)[0], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("num_rows", "shape", "splits"),
    [
        (128, (4608, 3584), 2),
        (128, (3584, 18944), 4),
        (40, (3584, 3584), 4),
        (128, (37888, 3584), 1),
        (128, (3584, 3590), 1),
        (32, (3584, 3584), 1),
        (129, (3584, 3584), 1),
    ],
)
def test_products_of_some_rows_come_in_terms(num_rows, shape, splits):
    assert num_splits(num_rows, *shape) == splits


def test_one_and_many_rows_may_be_narrow_and_few_are_not():
    assert hopper_multiply(*factors(1, 65, 512), narrow=True).dtype == jnp.bfloat16
    x, matrix = factors(200, 65, 512)
    narrow = hopper_multiply(x, matrix, narrow=True)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        narrow.astype(jnp.float32), multiply(x, matrix), rtol=2**-7, atol=0.1
    )
    assert hopper_multiply(x, matrix).dtype == jnp.float32
    assert hopper_multiply(x[:3], matrix, narrow=True).dtype == jnp.float32
