"""The Mosaic GPU kernels: right in the interpreter, without races, and they lower for CUDA."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.hopper import is_hopper
from pallas_kernels.hopper_attention import hopper_attention, takes_heads
from pallas_kernels.paged_attention import paged_attention, paged_attention_reference
from pallas_kernels.paged_decode import TuningConfig, choose_config, paged_decode
from tests.hopper import lower_for_h200

BF16 = jnp.bfloat16
PAGE = 64
# Weights are rounded to bfloat16, 8 bits, before they meet the values.
TOLERANCE = 4e-3


def make_case(rows, block_q, kv_heads, group, head_dim, pages_each, seed=0):
    rng = np.random.default_rng(seed)
    num_pages = rows * pages_each + 1
    shape = (num_pages, kv_heads, PAGE, head_dim)
    q = rng.normal(size=(rows, block_q, kv_heads, group, head_dim)) * head_dim**-0.5
    tables = rng.permutation(np.arange(1, num_pages)).reshape(rows, pages_each)
    k, v = (jnp.asarray(rng.normal(size=shape), BF16) for _ in range(2))
    return jnp.asarray(q, BF16), k, v, jnp.asarray(tables, jnp.int32)


def relative_error(ours, reference):
    ours, reference = (np.asarray(x, np.float32) for x in (ours, reference))
    return np.linalg.norm(ours - reference) / np.linalg.norm(reference)


@pytest.mark.parametrize(
    ("head_dim", "group", "config", "lengths"),
    [
        (64, 7, TuningConfig(2, 2), [200, 5, 0]),
        (128, 1, TuningConfig(1, 2), [1, 64, 65]),
        (128, 12, TuningConfig(3, 2), [256, 129, 63]),
        (64, 7, TuningConfig(1, 2, 2), [200, 0, 65]),
        (64, 12, TuningConfig(1, 2, 4), [0, 200, 130]),  # the last instance has two items alone
        (64, 7, TuningConfig(1, 2, 2, pages_per_step=2), [200, 0, 65]),
        (128, 3, TuningConfig(2, 2, pages_per_step=2), [256, 129, 63]),
        (64, 7, TuningConfig(1, 1, pages_per_step=3), [256, 5, 192]),
    ],
)
def test_decode_is_the_reference(head_dim, group, config, lengths, capfd):
    q, k, v, tables = make_case(3, 1, 2, group, head_dim, 4)
    lengths = jnp.asarray(lengths, jnp.int32)
    out = paged_decode(
        q[:, 0], k, v, tables, lengths,
        config=config,
        interpret=plgpu.InterpretGPUParams(detect_races=True),
    )  # fmt: skip
    assert "RACE" not in capfd.readouterr().out
    reference = paged_attention_reference(q, k, v, tables, (lengths - 1)[:, None])[:, 0]
    assert relative_error(out, reference) < TOLERANCE
    assert not np.asarray(out[np.asarray(lengths) == 0]).any()


def test_prefill_is_the_reference(capfd):
    q, k, v, tables = make_case(3, 64, 2, 2, 64, 4)
    starts, lengths = np.array([0, 128, 70]), np.array([64, 5, 0])
    place = np.arange(64)
    positions = np.where(place < lengths[:, None], starts[:, None] + place, -1).astype(np.int32)
    interpret = plgpu.InterpretGPUParams(detect_races=True)
    out = hopper_attention(q, k, v, tables, jnp.asarray(positions), interpret=interpret)
    assert "RACE" not in capfd.readouterr().out
    assert np.isfinite(np.asarray(out, np.float32)).all()
    counted = positions >= 0
    reference = paged_attention_reference(q, k, v, tables, jnp.asarray(positions))
    assert relative_error(out[counted], reference[counted]) < TOLERANCE


def test_rows_of_queries_that_do_not_count_may_hold_anything():
    q, k, v, tables = make_case(2, 1, 2, 7, 64, 2)
    positions = jnp.array([[70], [3]])
    padded = jnp.pad(q, ((0, 0), (0, 0), (0, 0), (0, 1), (0, 0)), constant_values=jnp.nan)
    out = hopper_attention(
        padded, k, v, tables, positions, group=7, interpret=plgpu.InterpretGPUParams()
    )
    reference = paged_attention_reference(q, k, v, tables, positions)
    assert out.shape == q.shape
    assert relative_error(out, reference) < TOLERANCE


@pytest.mark.parametrize("rows", [3, 140])  # split, and not
def test_rows_are_written_among_what_stands_there(rows, capfd):
    q, k, v, tables = make_case(rows + 5, 1, 1, 3, 64, 1)
    tables = tables[:rows]
    positions = jnp.asarray(np.random.default_rng(1).integers(-1, PAGE, (rows, 1)), jnp.int32)
    into = jnp.full(q.shape, 7, BF16)
    interpret = plgpu.InterpretGPUParams(detect_races=rows < 10)
    out = hopper_attention(
        q, k, v, tables - 1, positions, first_page=1, into=into, interpret=interpret
    )
    assert "RACE" not in capfd.readouterr().out
    plain = paged_attention(q, k, v, tables - 1, positions, first_page=1, into=into)
    is_row = np.append(np.asarray(positions[:, 0]) >= 0, [False] * 5)
    for ours in (out, plain):
        assert (np.asarray(ours[~is_row]) == 7).all()
    reference = paged_attention_reference(q[:rows], k, v, tables, positions)[is_row[:rows]]
    for ours in (out, plain):
        assert relative_error(ours[is_row], reference) < TOLERANCE


def test_wide_queries_meet_narrow_pages():
    q, k, v, tables = make_case(2, 1, 1, 2, 64, 1)
    positions = jnp.array([[40], [3]])
    wide = q.astype(jnp.float32)
    interpret = plgpu.InterpretGPUParams()
    run = partial(hopper_attention, interpret=interpret)
    out = run(wide, k, v, tables, positions, into=wide)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, run(q, k, v, tables, positions).astype(jnp.float32))


def test_blocks_and_splits_are_written_into_nothing():
    q, k, v, tables = make_case(1, 64, 1, 1, 64, 1)
    with pytest.raises(ValueError, match="blocks of 1 query alone"):
        hopper_attention(q, k, v, tables, jnp.zeros((1, 64), jnp.int32), into=q)
    q = q[:, 0]
    with pytest.raises(ValueError, match="one split alone can be written into an array, got 2"):
        paged_decode(q, k, v, tables, jnp.ones(1, jnp.int32), into=q, config=TuningConfig(2))


@pytest.mark.parametrize(("rows", "block_q"), [(4, 1), (4, 64), (150, 1)])
def test_they_lower_for_a_gpu_without_one(rows, block_q):
    q, k, v, tables = make_case(rows, block_q, 2, 7, 128, 4)
    positions = jnp.zeros((rows, block_q), jnp.int32) + jnp.arange(block_q)
    lowered = lower_for_h200(jax.jit(hopper_attention), q, k, v, tables, positions)
    assert "mosaic_gpu" in lowered.as_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": 17}, "a group of at most 16 heads, got 17"),
        ({"head_dim": 96}, "head_dim must be 64 or 128, got 96"),
    ],
)
def test_decode_refuses_what_it_does_not_take(change, message):
    sizes = {"group": 2, "head_dim": 64} | change
    q, k, v, tables = make_case(1, 1, 1, sizes["group"], sizes["head_dim"], 1)
    with pytest.raises(ValueError, match=message):
        paged_decode(q[:, 0], k, v, tables, jnp.ones(1, jnp.int32), config=TuningConfig())


def test_other_types_are_refused():
    q, k, v, tables = make_case(1, 1, 1, 2, 64, 1)
    one = jnp.ones(1, jnp.int32)
    with pytest.raises(ValueError, match="one 16-bit type, got bfloat16, float32, bfloat16"):
        paged_decode(q[:, 0], k.astype(jnp.float32), v, tables, one, config=TuningConfig())


@pytest.mark.parametrize(
    ("rows", "kv_heads", "pages", "splits", "items"),
    [
        (1, 4, 128, 32, 1),
        (8, 4, 128, 4, 1),
        (32, 4, 128, 1, 1),
        (64, 4, 128, 1, 1),
        (128, 4, 128, 1, 2),
        (1, 2, 3, 3, 1),
    ],
)
def test_splits_and_items_fill_the_device(rows, kv_heads, pages, splits, items):
    config = choose_config(rows, kv_heads, pages)
    assert (config.num_splits, config.num_items) == (splits, items)


def test_they_run_on_hopper_with_16_bits_only():
    class Device:
        def __init__(self, capability):
            self.compute_capability = capability

    assert is_hopper(Device("9.0"))
    for other in (Device("8.6"), Device("10.0"), Device("12.0"), Device("gfx942"), object()):
        assert not is_hopper(other)
    fits = {"group": 7, "head_dim": 128, "itemsize": 2}
    assert takes_heads(**fits)
    for change in ({"group": 17}, {"head_dim": 96}, {"itemsize": 4}):
        assert not takes_heads(**(fits | change))
