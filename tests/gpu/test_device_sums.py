"""The sum over devices with the norm after it, on one card and on two."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from models.mesh import TP, make_mesh
from models.reduction import whole
from pallas_kernels.add_norm import add_norm
from pallas_kernels.one_shot_gather import MAX_WORDS
from runtime.exchange import MAX_ROWS, PEER_SPECS, Exchange, one_shot, share_by

pytestmark = pytest.mark.gpu

EPS = 1e-6


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.bfloat16)


@pytest.fixture(params=[1, 2], ids=["one card", "two cards"])
def mesh(request):
    if jax.device_count() < request.param:
        pytest.skip(f"needs {request.param} CUDA devices")
    return make_mesh(request.param)


def steps(mesh, exchange, *, num_calls):
    """One step of some calls: each adds the terms of all devices and goes on with the norm."""
    peers = [exchange.peers]

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P(TP), P(), PEER_SPECS),
        out_specs=(P(TP), P(TP)),
        check_vma=False,
    )
    def run(x, terms, scale, peers):
        sums = one_shot(whole, peers)
        for i in range(num_calls):
            x, normed = sums.norm(jnp.int32(i), add_norm)(x, terms[0] * (i + 1), scale, EPS)
        return x[None], normed[None]

    def step(x, terms, scale):
        peers[0] = peers[0].next()
        return run(x, terms, scale, peers[0])

    return step


@pytest.mark.parametrize("num_terms", [1, 3])
@pytest.mark.parametrize("rows", [1, 2, 7, 64, MAX_ROWS])
@pytest.mark.parametrize("width", [512, 3584])
def test_every_device_has_the_sum_of_all(mesh, rows, num_terms, width):
    x, scale = normal(rows, rows, width), normal(1, width).astype(jnp.float32)
    terms = normal(2, mesh.size, num_terms, rows, width)
    exchange = Exchange(mesh, width=width)  # whose memory must stay
    added, normed = steps(mesh, exchange, num_calls=1)(x, terms, scale)
    parts = terms.astype(jnp.float32).sum(axis=1).astype(jnp.bfloat16)
    wanted, wanted_norm = add_norm(x, parts, scale, EPS)
    for ours, exact in ((added, wanted), (normed, wanted_norm)):
        for device in range(mesh.size):
            np.testing.assert_allclose(
                np.asarray(ours[device], np.float32),
                np.asarray(exact, np.float32),
                rtol=8e-3,
            )
        assert len({np.asarray(part).tobytes() for part in ours}) == 1


def test_steps_follow_each_other_without_a_mix_up(mesh):
    width, rows = 3584, 8
    exchange = Exchange(mesh, width=width)
    step = steps(mesh, exchange, num_calls=56)
    scale = jnp.ones(width)
    for i in range(50):
        terms = normal(i, mesh.size, 1, rows, width) / 56
        x = normal(100 + i, rows, width)
        added, _ = step(x, terms, scale)
        for call in range(56):
            x, _ = add_norm(x, terms[:, 0] * jnp.asarray(call + 1, jnp.bfloat16), scale, EPS)
        np.testing.assert_array_equal(np.asarray(added[0]), np.asarray(x))
        np.testing.assert_array_equal(np.asarray(added[-1]), np.asarray(x))


@pytest.mark.parametrize("count", [2, 255, 256, 257, MAX_WORDS])
def test_every_device_has_the_words_of_all(mesh, count):
    exchange = Exchange(mesh, width=512)
    words = np.random.default_rng(count).integers(-(2**31), 2**31, (4, mesh.size, count), np.int32)

    @jax.jit
    @partial(
        jax.shard_map, mesh=mesh, in_specs=(P(TP), PEER_SPECS), out_specs=P(TP), check_vma=False
    )
    def gather(words, peers):
        return share_by(peers, width=512)(words[0])[None]

    peers = exchange.peers
    for step in words:  # what came in the step before is not taken for what comes
        peers = peers.next()
        for ours in np.asarray(gather(step, peers)):
            np.testing.assert_array_equal(ours, step)
