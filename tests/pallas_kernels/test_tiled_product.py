"""Products in tiles: right in the interpreter, without races, and they lower for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import tiled_product as module
from pallas_kernels.multiply import multiply
from pallas_kernels.tiled_product import Tiles, TuningConfig, choose_config, tiled_product
from tests.hopper import lower_for_h200


def factors(num_rows, num_out, num_in, dtype=jnp.bfloat16):
    rng = np.random.default_rng(num_rows + num_out)
    x, matrix = rng.normal(size=(num_rows, num_in)), rng.normal(size=(num_out, num_in))
    return jnp.asarray(x, dtype), jnp.asarray(matrix, dtype)


@pytest.mark.parametrize(
    ("shape", "num_cores", "config"),
    [
        ((64, 128, 256), 132, TuningConfig(64, num_stages=2, num_consumers=1)),
        ((128, 224, 512), 132, TuningConfig(112, num_splits=4)),
        ((256, 224, 512), 6, TuningConfig(112, num_stages=2, num_splits=2)),
    ],
)
def test_it_is_the_reference_without_races(shape, num_cores, config, monkeypatch, capfd):
    monkeypatch.setattr(module, "NUM_CORES", num_cores)
    x, matrix = factors(*shape)
    interpret = plgpu.InterpretGPUParams(detect_races=True)
    out = tiled_product(x, matrix, config=config, interpret=interpret)
    assert "RACE" not in capfd.readouterr().out
    assert out.shape == (config.num_splits, *shape[:2]) and out.dtype == jnp.float32
    np.testing.assert_allclose(out.sum(0), multiply(x, matrix)[0], rtol=1e-5, atol=1e-3)


def test_the_last_tile_overlaps_where_tiles_do_not_divide():
    x, matrix = factors(64, 104, 128)  # both write the same into what they share
    config = TuningConfig(72, num_consumers=1, num_splits=2)
    out = tiled_product(x, matrix, config=config, interpret=plgpu.InterpretGPUParams())
    np.testing.assert_allclose(out.sum(0), multiply(x, matrix)[0], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "tile_out", "splits", "tiles"),
    [
        ((128, 3584, 18944), 112, 4, 128),
        ((384, 3584, 18944), 168, 2, 132),
        ((512, 4608, 3584), 144, 1, 128),
        ((256, 3584, 3584), 112, 2, 128),
    ],
)
def test_the_chosen_configuration_lowers_for_a_gpu_without_one(shape, tile_out, splits, tiles):
    num_rows, num_out, num_in = shape
    config = choose_config(*shape)
    assert (config.tile_out, config.num_splits) == (tile_out, splits)
    assert Tiles(*shape, config).count == tiles
    sizes = ((num_rows, num_in), (num_out, num_in))
    x, matrix = (jax.ShapeDtypeStruct(size, jnp.bfloat16) for size in sizes)
    run = jax.jit(lambda x, m: tiled_product(x, m, config=config))
    assert "mosaic_gpu" in lower_for_h200(run, x, matrix).as_text()


@pytest.mark.parametrize(
    "shape",
    [
        (64, 3584, 3584),
        (1024, 3584, 3584),
        (130, 3584, 3584),
        (128, 3584, 100),
        (128, 3588, 3584),
        (128, 896, 4864),
    ],
)
def test_there_is_no_configuration_that_would_leave_many_without_work(shape):
    assert choose_config(*shape) is None


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((64, 128, 256), jnp.bfloat16, r"does not divide \(64, 256\)"),
        ((128, 128, 192), jnp.bfloat16, r"does not divide \(128, 192\)"),
        ((128, 64, 256), jnp.bfloat16, r"does not divide a matrix of \(64, 256\)"),
        ((128, 132, 256), jnp.bfloat16, r"does not divide a matrix of \(132, 256\)"),
        ((128, 128, 256), jnp.float32, "must have one 16-bit type"),
    ],
)
def test_what_it_does_not_take_is_named(shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        tiled_product(*factors(*shape, dtype), config=TuningConfig(112, num_splits=2))
