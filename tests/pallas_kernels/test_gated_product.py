"""Gate and up in one kernel: right in the interpreter, without races, and it lowers for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import few_rows
from pallas_kernels import tiled_product as module
from pallas_kernels.gated_product import (
    choose_config,
    choose_streamed,
    gated_product,
    hopper_gated,
    hopper_gated_product,
    streamed_gated_product,
)
from pallas_kernels.tiled_product import TuningConfig
from tests.hopper import lower_for_h200


def factors(num_rows, num_out, num_in, dtype=jnp.bfloat16):
    rng = np.random.default_rng(num_rows + num_out)
    x, matrix = rng.normal(size=(num_rows, num_in)), rng.normal(size=(2, num_out, num_in))
    return jnp.asarray(x, dtype), jnp.asarray(matrix / num_in**0.5, dtype)


def check(x, matrix, config, **params):
    interpret = plgpu.InterpretGPUParams(**params)
    out = hopper_gated_product(x, matrix, config=config, interpret=interpret)
    assert out.dtype == x.dtype
    ours, wanted = (np.asarray(v, np.float32) for v in (out, gated_product(x, matrix)))
    np.testing.assert_allclose(ours, wanted, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ((64, 128, 256), TuningConfig(64, 64, 2, 1)),
        ((128, 144, 192), TuningConfig(72)),
    ],
)
def test_it_is_the_reference_without_races(shape, config):
    check(*factors(*shape), config, detect_races=True)


@pytest.mark.parametrize("num_rows", [5, 17])
def test_few_rows_are_the_reference_without_races(num_rows, capfd):
    x, matrix = factors(num_rows, 128, 512)
    config = choose_streamed(num_rows, 128, 512)
    interpret = plgpu.InterpretGPUParams(detect_races=True)
    out = streamed_gated_product(x, matrix, config=config, interpret=interpret)
    assert "RACE" not in capfd.readouterr().out and out.dtype == x.dtype
    ours, wanted = (np.asarray(v, np.float32) for v in (out, gated_product(x, matrix)))
    np.testing.assert_allclose(ours, wanted, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("num_rows", "stages"), [(1, None), (4, None), (8, 2), (32, 4), (33, None)]
)
def test_the_chosen_configuration_of_few_rows_lowers(num_rows, stages):
    config = choose_streamed(num_rows, 18944, 3584)
    assert (config and config.num_stages) == stages
    if config:
        shapes = ((num_rows, 3584), (2, 18944, 3584))
        x, matrix = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes)
        run = jax.jit(lambda x, m: hopper_gated(x, m))
        assert "few_rows_gated" in lower_for_h200(run, x, matrix).as_text()


def test_the_last_tile_overlaps_where_tiles_do_not_divide():
    check(*factors(128, 104, 128), TuningConfig(72))  # both write the same into what they share


def test_an_instance_computes_several_tiles(monkeypatch):
    monkeypatch.setattr(module, "NUM_CORES", 4)
    check(*factors(256, 432, 192), TuningConfig(72), detect_races=True)


@pytest.mark.parametrize(
    ("shape", "tile_out"),
    [
        ((128, 18944, 3584), 144),
        ((384, 18944, 3584), 112),
        ((512, 18944, 3584), 96),
        ((512, 4864, 896), 152),
    ],
)
def test_the_chosen_configuration_lowers_for_a_gpu_without_one(shape, tile_out):
    num_rows, num_out, num_in = shape
    config = choose_config(*shape)
    assert config.tile_out == tile_out and config.num_consumers == 2
    factors = ((num_rows, num_in), (2, num_out, num_in))
    x, matrix = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in factors)
    run = jax.jit(lambda x, m: hopper_gated_product(x, m, config=config))
    assert "mosaic_gpu" in lower_for_h200(run, x, matrix).as_text()


@pytest.mark.parametrize(
    "shape",
    [
        (130, 128, 256),
        (128, 128, 100),
        (128, 100, 128),
        (128, 56, 128),
        (64, 128, 256),
        (2048, 128, 256),
    ],
)
def test_there_is_no_configuration_for_odd_shapes(shape):
    assert choose_config(*shape) is None


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((64, 128, 256), jnp.bfloat16, "does not divide"),
        ((128, 64, 256), jnp.bfloat16, "does not divide"),
        ((128, 144, 100), jnp.bfloat16, "does not divide"),
        ((128, 144, 256), jnp.float32, "must have one 16-bit type"),
    ],
)
def test_what_it_does_not_take_is_named(shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        hopper_gated_product(*factors(*shape, dtype), config=TuningConfig(144))


def test_a_gate_needs_whole_sums():
    with pytest.raises(ValueError, match="whole sums"):
        streamed_gated_product(*factors(8, 128, 256), config=few_rows.TuningConfig(64, 2, 2))
    with pytest.raises(ValueError, match="whole sums"):
        hopper_gated_product(*factors(128, 144, 256), config=TuningConfig(144, num_splits=2))
