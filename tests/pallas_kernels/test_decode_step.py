"""Rotation, KV write and attention in one kernel: as the two others one after the other."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from models.kv_cache import KVCache, ModelInput, enter, make_paged_attention
from models.operations import hopper_decode
from models.projection import Projection
from pallas_kernels.decode_step import decode_step, takes_heads
from pallas_kernels.paged_attention import paged_attention, paged_attention_reference
from pallas_kernels.paged_decode import TuningConfig, choose_config
from tests.hopper import lower_for_h200

PAGE = 64
HEAD_DIM = 128


def operands(positions, kv_heads, group, pages_each, *, num_terms=1, dtype=jnp.float32, seed=0):
    """A projection of one token a request, pages in any order, and where the tokens stand."""
    rng = np.random.default_rng(seed)
    rows = len(positions)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    projection = Projection(
        0,
        draw(num_terms, rows, kv_heads, group + 2, HEAD_DIM).astype(dtype),
        draw(kv_heads, group + 2, HEAD_DIM),
        (draw(rows, HEAD_DIM // 2), draw(rows, HEAD_DIM // 2)),
        jnp.dtype("bfloat16"),
    )
    shape = (rows * pages_each + 1, kv_heads, PAGE, HEAD_DIM)
    pages = draw(2, *shape).astype(jnp.bfloat16)
    tables = rng.permutation(np.arange(1, shape[0])).reshape(rows, pages_each)
    return projection, *pages, jnp.asarray(tables, jnp.int32), jnp.asarray(positions, jnp.int32)


def one_by_one(projection, k_pages, v_pages, tables, positions):
    """Entering and attention apart, in plain XLA."""
    place = jnp.maximum(positions, 0)
    ids = jnp.take_along_axis(tables, place[:, None] // PAGE, axis=1)[:, 0]
    ids = jnp.where(positions >= 0, ids, -1)
    q, k_pages, v_pages = enter(projection, k_pages, v_pages, ids, place % PAGE)
    q = q[:, None].astype(jnp.float32)
    out = paged_attention_reference(q, k_pages, v_pages, tables, positions[:, None])
    return out[:, 0], k_pages, v_pages


def run(given, config, interpret=None):
    projection, *rest = given
    heads = (projection.terms, projection.bias, projection.rope)
    return decode_step(*heads, *rest, config=config, interpret=interpret)


@pytest.mark.parametrize(
    ("positions", "group", "num_terms", "dtype", "config"),
    [
        ([130, 0, -1], 7, 2, "float32", TuningConfig(1, 2)),
        ([64, 63], 1, 1, "bfloat16", TuningConfig(2, 2)),
        ([5, -1, 191], 2, 1, "float32", TuningConfig(1, 2, 2)),
        ([129, 127, 0], 4, 3, "float32", TuningConfig(2, 1, pages_per_step=2)),
    ],
)
def test_it_is_one_after_the_other(positions, group, num_terms, dtype, config, capfd):
    given = operands(positions, 2, group, 3, num_terms=num_terms, dtype=jnp.dtype(dtype))
    out, *pages = run(given, config, plgpu.InterpretGPUParams(detect_races=True))
    assert "RACE" not in capfd.readouterr().out
    wanted, *wanted_pages = one_by_one(*given)
    for ours, theirs in zip(pages, wanted_pages, strict=True):
        np.testing.assert_array_equal(np.float32(ours), np.float32(theirs))
    ours = np.float32(out)
    assert not ours[np.array(positions) < 0].any()
    error = np.linalg.norm(ours - np.float32(wanted)) / np.linalg.norm(wanted)
    assert error < 4e-3  # weights and queries are rounded to 8 bits


def test_numbers_that_are_none_stay_with_their_request(capfd):
    projection, *rest = operands([70, 3], 1, 2, 2)
    broken = replace(projection, terms=projection.terms.at[0, 1].set(jnp.nan))
    out, *pages = run((broken, *rest), TuningConfig(1, 2), plgpu.InterpretGPUParams())
    assert np.isnan(np.float32(out[1])).all() and np.isfinite(np.float32(out[0])).all()
    wanted = one_by_one(broken, *rest)[1:]
    for ours, theirs in zip(pages, wanted, strict=True):
        assert np.isfinite(np.float32(ours)).all()
        np.testing.assert_array_equal(np.float32(ours), np.float32(theirs))


def test_a_step_of_rows_attends_by_it():
    projection, k_pages, v_pages, tables, positions = operands([70, -1, 3], 2, 3, 2)
    num_pages = k_pages.shape[0]
    # the second of two layers
    cache = KVCache(*(jnp.stack([jnp.zeros_like(x), x]) for x in (k_pages, v_pages)))
    step = ModelInput(
        jnp.zeros(3, jnp.int32), positions, jnp.arange(3), jnp.zeros(0, jnp.int32), tables
    )
    projection = replace(projection, layer=jnp.int32(1))
    decode = partial(hopper_decode, interpret=plgpu.InterpretGPUParams())
    outs = [
        make_paged_attention(step, paged_attention, decode=way)(projection, cache)
        for way in (decode, None)
    ]
    (ours, our_cache), (theirs, their_cache) = outs
    is_row = np.asarray(positions) >= 0
    error = np.float32(ours - theirs)[is_row]
    assert np.linalg.norm(error) < 1e-2 * np.linalg.norm(np.float32(theirs)[is_row])
    assert our_cache.k.shape == (2, num_pages, 2, PAGE, HEAD_DIM)
    for name in ("k", "v"):
        np.testing.assert_array_equal(
            *(np.float32(getattr(x, name)) for x in (our_cache, their_cache))
        )


def test_heads_that_are_looked_at_are_kept_apart():
    projection, k_pages, v_pages, tables, positions = operands([70, 3], 2, 3, 2)
    seen = []

    def tap(site, layer, value):
        seen.append(site)
        return value

    step = ModelInput(
        jnp.zeros(2, jnp.int32), positions, jnp.arange(2), jnp.zeros(0, jnp.int32), tables
    )
    attention = make_paged_attention(step, paged_attention, decode=hopper_decode)
    attention(replace(projection, tap=tap), KVCache(k_pages[None], v_pages[None]))
    assert seen == ["attn.q", "attn.k", "attn.v"]


@pytest.mark.parametrize("num_terms", [1, 4])
@pytest.mark.parametrize("rows", [2, 128])
def test_it_lowers_for_a_gpu_without_one_and_writes_in_place(rows, num_terms):
    projection, *rest = operands([0] * rows, 4, 7, 1, num_terms=num_terms)
    heads = (projection.terms, projection.bias, projection.rope)
    given = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (*heads, *rest))
    config = choose_config(rows, 4, 1)
    step = jax.jit(partial(decode_step, config=config), donate_argnums=(3, 4))
    text = lower_for_h200(step, *given).as_text()
    assert "mosaic_gpu" in text
    aliases = re.findall(r"output_tuple_indices = \[(\d)\], operand_index = (\d+)", text)
    assert len(set(aliases)) == 2


def test_what_it_does_not_take_is_refused():
    projection, k_pages, v_pages, *rest = operands([0], 1, 2, 1)
    heads = (projection.terms, projection.bias, projection.rope)
    wide = jnp.float32(k_pages)
    for pages, message in (
        ((wide, wide), "one 16-bit type, got float32, float32"),
        ((k_pages, wide), "one 16-bit type, got bfloat16, float32"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_step(*heads, *pages, *rest, config=TuningConfig())
    small = (projection.terms[..., :64], projection.bias[..., :64], projection.rope)
    with pytest.raises(ValueError, match="groups of 2 heads of 64 are not what"):
        decode_step(*small, k_pages, v_pages, *rest, config=TuningConfig())
    assert takes_heads(group=16, head_dim=128) and not takes_heads(group=17, head_dim=128)
