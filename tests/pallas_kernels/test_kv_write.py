"""New keys and values land in their pages; padding lands nowhere; the rest is not moved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.kv_write import write_pages

SHAPE = (5, 3, 8, 4)  # pages K page H


def pages_of(dtype: str = "float32") -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), dtype)


def new_of(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, 4)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_each_token_is_written_at_its_place(count, dtype):
    places = np.random.default_rng(2).permutation(4 * 8)[:count]
    page_ids, offsets = places // 8 + 1, places % 8
    pages, new = pages_of(dtype), new_of(count)
    want = np.array(pages)
    for t in range(count):
        want[page_ids[t], :, offsets[t]] = jnp.asarray(new[t], dtype)
    got = write_pages(pages, jnp.asarray(new), jnp.asarray(page_ids), jnp.asarray(offsets))
    assert got.dtype == pages.dtype
    assert np.array_equal(got, want)


def test_padding_is_written_nowhere():
    pages = pages_of()
    nowhere = jnp.array([-1, 2, -1])
    got = np.asarray(write_pages(pages, new_of(3), nowhere, jnp.array([0, 1, 0])))
    changed = np.argwhere(np.any(got != np.asarray(pages), axis=(1, 3)))
    assert changed.tolist() == [[2, 1]]


def test_a_step_of_padding_alone_changes_nothing():
    got = write_pages(pages_of(), new_of(2), jnp.array([-1, -1]), jnp.array([0, 0]))
    assert np.array_equal(got, pages_of())


@pytest.mark.parametrize("count", [2, 7])
def test_the_write_is_in_place(count):
    arguments = (new_of(count), jnp.zeros(count, jnp.int32), jnp.arange(count))
    compiled = jax.jit(write_pages, donate_argnums=0).lower(pages_of(), *arguments).compile()
    pages = pages_of()
    assert compiled.memory_analysis().alias_size_in_bytes == pages.nbytes
    assert compiled.memory_analysis().temp_size_in_bytes < pages.nbytes
    name = "f32[" + ",".join(map(str, SHAPE)) + "]"
    assert not [
        line for line in compiled.as_text().splitlines() if "copy(" in line and name in line
    ]
    compiled(pages, *arguments)
    assert pages.is_deleted()
