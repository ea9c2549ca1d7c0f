"""A kernel is the same wherever it is lowered, so that it is compiled once."""

import re

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.add_norm import hopper_add_norm
from pallas_kernels.kernel_names import without_numbers
from tests.hopper import lower_for_h200


def kernels(rows: int, times: int) -> list[str]:
    """The hashes of the kernels of a new program that norms so often."""

    def run(x, terms, scale):
        for _ in range(times):
            x = hopper_add_norm(x, terms, scale, 1e-6)[0] * 2
        return x

    shapes = [((rows, 256), jnp.bfloat16), ((1, rows, 256), jnp.float32), ((256,), jnp.float32)]
    text = lower_for_h200(jax.jit(run), *(jax.ShapeDtypeStruct(*s) for s in shapes)).as_text()
    found = re.findall(r'kernel_hash = "([^"]+)"', text)
    assert len(found) == times
    return found


def test_a_kernel_is_the_same_in_every_program():
    with without_numbers():
        first, second = kernels(64, 1), kernels(64, 2)
        assert len({*first, *second}) == 1
        assert kernels(128, 1) != first


def test_elsewhere_jax_numbers_them():
    with pytest.raises(ZeroDivisionError), without_numbers():
        raise ZeroDivisionError
    assert len({*kernels(64, 1), *kernels(64, 2)}) == 3
