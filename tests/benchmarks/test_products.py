"""Every way to make a layer's products can be built for a GPU, which this machine may not have."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import products
from tests.hopper import lower_for_h200


@pytest.mark.parametrize(("num_rows", "num_devices"), [(1, 2), (8, 1), (128, 1)])
@pytest.mark.parametrize("name", products.SHAPES)
def test_every_way_lowers(name, num_rows, num_devices, monkeypatch):
    monkeypatch.setattr(products, "CALLS", 2)
    num_out, num_in = products.own_shape(name, num_devices)
    shape = (2, num_out // 2, num_in) if name == "gate_up" else (num_out, num_in)
    operands = (
        jax.ShapeDtypeStruct((num_rows, num_in), jnp.bfloat16),
        jax.ShapeDtypeStruct((2, *shape), jnp.bfloat16),
        jax.ShapeDtypeStruct((num_out,), jnp.float32),
    )
    ways = products.ways(name, num_rows, num_out, num_in)
    assert "as served" in ways and len(ways) >= (2 if name == "gate_up" else 4)
    for make in ways.values():
        lowered = lower_for_h200(products.chain(name, make, num_in), *operands)
        (out,) = jax.tree.leaves(lowered.out_info)
        assert out.shape == (num_rows, num_in)


@pytest.mark.parametrize("name", ["out", "gate_up"])
def test_the_distance_tells_right_from_wrong(name, monkeypatch):
    monkeypatch.setattr(products, "CALLS", 1)
    shape = (2, 128, 128) if name == "gate_up" else (128, 128)
    x = jax.random.normal(jax.random.key(0), (4, 128), jnp.bfloat16)
    matrices = jax.random.normal(jax.random.key(1), (1, *shape), jnp.bfloat16)
    make = products.ways(name, 40, shape[-2] * (len(shape) - 1), 128)[
        "XLA" if name == "gate_up" else "XLA, 16-bit"
    ]
    monkeypatch.setattr(
        products, "chain", lambda name, make, num_in: jax.jit(lambda *operands: operands)
    )
    operands = (x, matrices, jnp.ones(128))
    exact = products.reference(name, x, matrices[0])
    assert products.prepare(name, make, exact, operands)[1] < products.TOLERANCE
    wrong = products.prepare(name, lambda *factors: 2 * make(*factors), exact, operands)[1]
    assert wrong == pytest.approx(1, abs=0.1)
