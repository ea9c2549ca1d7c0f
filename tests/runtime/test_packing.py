"""Several arrays travel as one vector and come out as they went in."""

import jax
import jax.numpy as jnp
import numpy as np

from runtime.packing import Packing, float_bits, from_bits, to_bits

PACKING = Packing((("a", (3,)), ("none", (0,)), ("b", (2, 2)), ("c", (1,))))


def test_the_size_is_the_sum_of_the_parts():
    assert PACKING.size == 8
    assert Packing(()).size == 0


def test_writing_to_a_view_writes_to_the_vector():
    vector = np.zeros(8, np.int32)
    views = PACKING.views(vector)
    views["a"][:] = [1, 2, 3]
    views["b"][1] = [6, 7]
    views["c"][0] = 8
    assert vector.tolist() == [1, 2, 3, 0, 0, 6, 7, 8]
    assert {name: view.shape for name, view in views.items()} == dict(PACKING.fields)


def test_the_device_sees_what_the_host_wrote():
    vector = np.arange(8, dtype=np.int32)
    views, unpacked = PACKING.views(vector), jax.jit(PACKING.unpack)(vector)
    assert unpacked.keys() == views.keys()
    for name, view in views.items():
        assert np.array_equal(unpacked[name], view)


def test_floats_travel_as_their_bits():
    values = np.array([0.1, -0.0, 1e-40, -np.inf, np.nan, 3e38])
    bits = float_bits(values)
    assert bits.dtype == np.int32
    np.testing.assert_array_equal(jax.jit(from_bits)(bits), values.astype(np.float32))
    back = jax.jit(to_bits)(jnp.asarray(values, jnp.float32))
    assert np.array_equal(back, bits)


def test_bits_of_floats_survive_the_way():
    values = np.array([0.1, -0.0, 1e-30, np.inf], np.float32)
    assert np.array_equal(float_bits(values).view(np.float32), values)
