"""Rotation and KV write in one kernel: right in the interpreter, in place, lowered for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from models.kv_cache import enter
from models.operations import hopper_enter
from models.projection import Projection
from pallas_kernels.head_rotation import takes_heads
from pallas_kernels.rope_write import rope_write
from tests.hopper import lower_for_h200

INTERPRET = plgpu.InterpretGPUParams(detect_races=True)
NUM_PAGES, PAGE = 6, 8


def operands(tokens, kv_heads, group, head_dim, *, dtype="bfloat16", terms=1):
    """Projection, pages, page ids and offsets; the first token is padding."""
    rng = np.random.default_rng(head_dim + group)
    angles = rng.uniform(0, 6, (tokens, head_dim // 2))
    projection = Projection(
        0,
        jnp.asarray(rng.normal(size=(terms, tokens, kv_heads, group + 2, head_dim)), dtype),
        jnp.asarray(rng.normal(size=(kv_heads, group + 2, head_dim)), jnp.float32),
        (jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)),
        jnp.dtype(jnp.bfloat16),
    )
    pages = rng.normal(size=(2, NUM_PAGES, kv_heads, PAGE, head_dim))
    ids = np.concatenate([[-1], 1 + rng.permutation(NUM_PAGES - 1)[: tokens - 1]])
    offsets = rng.integers(0, PAGE, tokens)
    return projection, *jnp.asarray(pages, jnp.bfloat16), jnp.asarray(ids), jnp.asarray(offsets)


@pytest.mark.parametrize(
    ("kv_heads", "group", "dtype", "terms"), [(4, 7, "float32", 1), (1, 5, "bfloat16", 2)]
)
def test_it_enters_as_xla_does(kv_heads, group, dtype, terms):
    given = operands(3, kv_heads, group, 128, dtype=dtype, terms=terms)
    want = enter(*given)
    got = hopper_enter(*given, interpret=INTERPRET)
    assert got[0].shape[2] == 8
    np.testing.assert_array_equal(*(np.float32(x[0][:, :, :group]) for x in (got, want)))
    for ours, theirs in zip(got[1:], want[1:], strict=True):
        np.testing.assert_array_equal(np.float32(ours), np.float32(theirs))


def test_numbers_that_are_none_become_zero_in_the_pages_alone():
    projection, *rest = operands(2, 2, 2, 128)
    broken = Projection(
        0,
        projection.terms.at[0, 1].set(jnp.nan),
        projection.bias,
        projection.rope,
        projection.dtype,
    )
    q, *pages = hopper_enter(broken, *rest, interpret=INTERPRET)
    q = np.float32(q[:, :, :2])  # the others mean nothing
    assert np.isnan(q[1]).all() and np.isfinite(q[0]).all()
    page, offset = int(rest[2][1]), int(rest[3][1])
    for after in pages:
        assert np.isfinite(np.float32(after)).all()
        assert not np.float32(after[page, :, offset]).any()


def test_who_is_looked_at_goes_the_plain_way():
    seen = []

    def tap(site, layer, value):
        seen.append((site, layer))
        return value

    projection, *rest = operands(2, 2, 2, 128)
    looked_at = Projection(
        5, projection.terms, projection.bias, projection.rope, projection.dtype, tap
    )
    hopper_enter(looked_at, *rest)
    assert seen == [("attn.q", 5), ("attn.k", 5), ("attn.v", 5)]


def test_other_heads_go_the_plain_way():
    assert not takes_heads(num_heads=1, head_dim=128)
    projection, *rest = operands(2, 2, 1, 64)
    heads = (projection.terms, projection.bias, projection.rope)
    with pytest.raises(ValueError, match="6 heads of 64 are not what"):
        rope_write(*heads, *rest, rows=8)
    want = enter(projection, *rest)
    np.testing.assert_array_equal(
        *(np.float32(x[0]) for x in (hopper_enter(projection, *rest), want))
    )


@pytest.mark.parametrize(("kv_heads", "group"), [(4, 7), (2, 7), (8, 5)])
def test_it_lowers_for_a_gpu_without_one_and_writes_in_place(kv_heads, group):
    projection, *rest = operands(4, kv_heads, group, 128)
    given = (projection.terms, projection.bias, projection.rope, *rest)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), given)
    run = jax.jit(lambda *x: rope_write(*x, rows=8), donate_argnums=(3, 4))
    text = lower_for_h200(run, *shapes).as_text()
    assert "mosaic_gpu" in text
    for output, operand in ((1, 6), (2, 7)):
        assert f"output_tuple_indices = [{output}], operand_index = {operand}" in text
