"""The kernels around attention on the card, against plain XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.kv_cache import enter
from models.operations import hopper_enter
from models.projection import Projection
from pallas_kernels.add_norm import add_norm, hopper_add_norm
from pallas_kernels.gated_product import gated_product, hopper_gated
from pallas_kernels.multiply import hopper_multiply, multiply
from pallas_kernels.tiled_product import TuningConfig, tiled_product

pytestmark = pytest.mark.gpu

BF16 = jnp.bfloat16
TOLERANCE = 4e-3


def normal(seed, *shape, dtype=BF16):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_close(ours, wanted):
    ours, wanted = (np.asarray(x, np.float32) for x in (ours, wanted))
    assert np.isfinite(ours).all()
    assert np.linalg.norm(ours - wanted) <= TOLERANCE * np.linalg.norm(wanted)


@pytest.mark.parametrize("rows", [1, 5, 32, 64, 100, 128, 256, 384, 512, 1024])
@pytest.mark.parametrize("shape", [(4608, 3584), (3584, 3584), (3584, 18944), (896, 4864)])
def test_products(shape, rows):
    x, matrix = normal(rows, rows, shape[1]), normal(1, *shape)
    exact = multiply(x.astype(jnp.float32), matrix.astype(jnp.float32))
    assert_close(jax.jit(hopper_multiply)(x, matrix).sum(axis=0), exact[0])


@pytest.mark.parametrize("rows", [1, 2, 5, 32, 64, 128, 384, 512])
@pytest.mark.parametrize("shape", [(18944, 3584), (9472, 3584), (4864, 896)])
def test_gated_product(shape, rows):
    x, matrix = normal(rows, rows, shape[1]), normal(1, 2, *shape) * shape[1] ** -0.5
    exact = gated_product(x.astype(jnp.float32), matrix.astype(jnp.float32))
    assert_close(jax.jit(hopper_gated)(x, matrix), exact)


@pytest.mark.parametrize(("rows", "splits"), [(64, 4), (128, 8), (512, 2), (384, 1)])
@pytest.mark.parametrize("shape", [(3584, 18944), (4608, 3584)])
def test_tiled_product(shape, rows, splits):
    x, matrix = normal(rows, rows, shape[1]), normal(1, *shape)
    exact = multiply(x.astype(jnp.float32), matrix.astype(jnp.float32))
    consumers = 1 if rows == 64 else 2
    config = TuningConfig(224, num_consumers=consumers, num_splits=splits)
    assert_close(tiled_product(x, matrix, config=config).sum(axis=0), exact[0])


@pytest.mark.parametrize("terms", [1, 4])
@pytest.mark.parametrize("rows", [1, 128, 700])
def test_addition_and_norm(rows, terms):
    x, scale = normal(0, rows, 3584), normal(1, 3584, dtype=jnp.float32)
    parts = normal(2, terms, rows, 3584, dtype=jnp.float32)
    for ours, wanted in zip(
        hopper_add_norm(x, parts, scale, 1e-6), add_norm(x, parts, scale, 1e-6), strict=True
    ):
        assert_close(ours, wanted)


@pytest.mark.parametrize("tokens", [1, 7, 128, 512])
@pytest.mark.parametrize(("kv_heads", "group", "head_dim"), [(4, 7, 128), (2, 7, 64), (8, 5, 128)])
@pytest.mark.parametrize(("dtype", "terms"), [("float32", 2), ("bfloat16", 1)])
def test_rotation_and_write(tokens, kv_heads, group, head_dim, dtype, terms):
    angles = np.random.default_rng(5).uniform(0, 6, (tokens, head_dim // 2))
    projection = Projection(
        0,
        normal(0, terms, tokens, kv_heads, group + 2, head_dim, dtype=dtype),
        normal(1, kv_heads, group + 2, head_dim, dtype=jnp.float32),
        (jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)),
        jnp.dtype(BF16),
    )
    pages = [normal(seed, 20, kv_heads, 64, head_dim) for seed in (2, 3)]
    places = np.random.default_rng(4).permutation(20 * 64)[:tokens]
    ids, offsets = jnp.asarray(places // 64), jnp.asarray(places % 64)
    ids = ids.at[3:5].set(-1)
    given = (projection, *pages, ids, offsets)
    ours = hopper_enter(*given)
    wanted = enter(*given)
    assert_close(ours[0][:, :, :group], wanted[0])
    for pages_after, wanted_after in zip(ours[1:], wanted[1:], strict=True):
        assert_close(pages_after, wanted_after)
        is_new = np.zeros((20, 64), bool)
        written = np.asarray(ids) >= 0
        is_new[np.asarray(ids)[written], np.asarray(offsets)[written]] = True
        old, wanted_old = (np.asarray(x.swapaxes(1, 2)) for x in (pages_after, wanted_after))
        assert np.array_equal(old[~is_new], wanted_old[~is_new])
