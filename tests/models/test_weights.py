"""Products of weights: exact where they are floats, within rounding where they are 8 bits."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.weights import Dense, Int8, round_to_int8


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_dense_product_is_a_matrix_product():
    matrix, x = normal(12, 8), normal(5, 8, seed=1)
    weight = Dense(jnp.asarray(matrix), (None, None))
    np.testing.assert_allclose(weight.product(jnp.asarray(x)), x @ matrix.T, atol=1e-5)


def test_outputs_and_inputs_may_have_structure():
    out = Dense(jnp.asarray(normal(3, 4, 8)), ("kv_heads", None, None))
    x = normal(5, 8, seed=1)
    np.testing.assert_allclose(
        out.product(jnp.asarray(x)), x @ normal(3, 4, 8).reshape(12, 8).T, atol=1e-5
    )
    into = Dense(jnp.asarray(normal(6, 2, 4)), (None, "kv_heads", None))
    np.testing.assert_allclose(
        into.product(jnp.asarray(x)), x @ normal(6, 2, 4).reshape(6, 8).T, atol=1e-5
    )


def test_bfloat16_products_are_summed_in_float32():
    ones = jnp.ones((1, 4096), jnp.bfloat16)
    product = Dense(ones, (None, None)).product(ones)
    assert product.dtype == jnp.float32
    assert float(product[0, 0]) == 4096.0


def test_8_bit_rows_are_within_half_a_step_of_their_values():
    values = normal(9, 64) * np.geomspace(1e-3, 1e3, 9, dtype=np.float32)[:, None]
    rounded, scales = round_to_int8(jnp.asarray(values))
    assert rounded.dtype == jnp.int8 and scales.shape == (9,)
    error = np.abs(np.asarray(rounded) * np.asarray(scales)[:, None] - values)
    assert np.all(error <= np.asarray(scales)[:, None] * 0.501)
    assert np.all(np.abs(np.asarray(rounded)).max(axis=1) == 127)


def test_a_row_of_zeros_stays_zero():
    rounded, scales = round_to_int8(jnp.zeros((2, 8)))
    assert not np.asarray(rounded).any() and np.isfinite(np.asarray(scales)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_8_bit_product_is_within_its_rounding(dtype):
    matrix, x = normal(6, 256), jnp.asarray(normal(5, 256, seed=1), dtype)
    x = x * jnp.array([1e-4, 1.0, 1e4, 1.0, 0.0], dtype)[:, None]
    values, scales = round_to_int8(jnp.asarray(matrix))
    product = np.asarray(Int8(values, scales, (None, None), num_out=1).product(x), np.float64)
    x = np.asarray(x, np.float64)
    # half a step of each factor at most, times the other factor, summed over the row
    x_step, w_step = np.abs(x).max(axis=1) / 127, np.asarray(scales, np.float64)
    bound = 0.51 * (
        np.outer(x_step, np.abs(matrix).sum(axis=1)) + np.outer(np.abs(x).sum(axis=1), w_step)
    ) + 0.26 * 256 * np.outer(x_step, w_step)
    assert np.all(np.abs(product - x @ matrix.T) <= bound)
    # and in practice far less: independent roundings, uniform within their steps
    variance = np.outer(x_step**2, (matrix**2).sum(axis=1)) + np.outer(
        (x**2).sum(axis=1), w_step**2
    )
    assert np.all(np.abs(product - x @ matrix.T)[:4] <= 6 * np.sqrt(variance / 12)[:4])
    assert np.all(product[4] == 0)


def test_8_bit_products_keep_the_structure_of_their_outputs():
    values, scales = round_to_int8(jnp.asarray(normal(12, 8)))
    flat = Int8(values, scales, (None, None), num_out=1)
    cut = Int8(values.reshape(3, 4, 8), scales.reshape(3, 4), ("kv_heads", None, None), num_out=2)
    x = jnp.asarray(normal(5, 8, seed=1))
    assert np.array_equal(flat.product(x), cut.product(x))


def test_a_tokens_product_does_not_depend_on_the_other_tokens():
    values, scales = round_to_int8(jnp.asarray(normal(12, 8)))
    weight = Int8(values, scales, (None, None), num_out=1)
    x = jnp.asarray(normal(5, 8, seed=1))
    alone = weight.product(x[2:3])
    assert np.array_equal(weight.product(x.at[0].mul(1e6))[2:3], alone)
