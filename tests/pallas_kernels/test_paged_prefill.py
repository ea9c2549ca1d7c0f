"""The prefill kernel, each way to build it: right in the interpreter, without races; it lowers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.paged_attention import paged_attention_reference
from pallas_kernels.paged_prefill import TuningConfig, paged_prefill
from tests.hopper import lower_for_h200

BF16 = jnp.bfloat16
PAGE = 64
# Weights are rounded to bfloat16, 8 bits, before they meet the values.
TOLERANCE = 4e-3


def make_case(owners, starts, lengths, *, kv_heads, group, head_dim):
    """Blocks of the contexts `owners`; pages that no query sees hold NaN or do not exist."""
    rng = np.random.default_rng(0)
    owners, starts, lengths = np.array(owners), np.array(starts), np.array(lengths)
    width = max(-(-(starts + 64) // PAGE)) + 1
    num_pages = (owners.max() + 1) * width + 1
    tables = rng.permutation(np.arange(1, num_pages)).reshape(-1, width).astype(np.int32)
    q = rng.normal(size=(len(owners), 64, kv_heads, group, head_dim)) * head_dim**-0.5
    k, v = rng.normal(size=(2, num_pages, kv_heads, PAGE, head_dim))
    needed = -(-(starts + lengths) // PAGE) * (lengths > 0)
    for owner in range(len(tables)):
        used = needed[owners == owner].max()
        k[tables[owner, used:]] = v[tables[owner, used:]] = np.nan
        tables[owner, used + 1 :] = 10**6
    place = np.arange(64)
    positions = np.where(place < lengths[:, None], starts[:, None] + place, -1)
    arrays = (jnp.asarray(x, BF16) for x in (q, k, v))
    numbers = (jnp.asarray(x, jnp.int32) for x in (tables[owners], starts, lengths))
    return *arrays, *numbers, jnp.asarray(positions, jnp.int32)


CASES = {
    # chunks that begin in mid-context and end within a page; two tiles of different contexts
    "7 heads": dict(owners=[0, 1], starts=[70, 130], lengths=[64, 9], group=7, head_dim=64),
    # consumers at different blocks of one context, at padding, and none at all
    "1 head": dict(owners=[0, 0, 1, 1, 0], starts=[128, 192, 3, 67, 0], lengths=[64, 40, 64, 1, 0],
                   group=1, head_dim=128),
    "2 heads": dict(owners=[0, 1, 1], starts=[0, 0, 64], lengths=[64, 0, 30], group=2, head_dim=64),
    "8 heads": dict(owners=[0], starts=[124], lengths=[64], group=8, head_dim=64),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kv_heads", "config"),
    [
        ("7 heads", 1, TuningConfig()),
        ("1 head", 1, TuningConfig()),
        ("8 heads", 1, TuningConfig(3, pages_per_step=1, num_stages=3)),
        ("2 heads", 2, TuningConfig(take_turns=False)),
    ],
)
def test_it_is_the_reference(name, kv_heads, config, capfd):
    *operands, positions = make_case(**CASES[name], kv_heads=kv_heads)
    q, k, v, tables = operands[:4]
    # rows that are no queries, and tables that call another page 0
    given = jnp.pad(q, ((0, 0),) * 3 + ((0, 1), (0, 0)), constant_values=jnp.nan), k, v, tables - 1
    interpret = plgpu.InterpretGPUParams(detect_races=True, uninitialized_memory="nan")
    out = paged_prefill(
        *given, *operands[4:], first_page=1, group=q.shape[3], config=config, interpret=interpret
    )
    out = np.asarray(out.astype(jnp.float32))
    assert "RACE" not in capfd.readouterr().out
    assert np.isfinite(out).all()
    assert not out[np.asarray(operands[-1]) == 0].any()
    known = (jnp.nan_to_num(x.astype(jnp.float32)) for x in (q, k, v))
    reference = np.asarray(
        paged_attention_reference(*known, tables.clip(max=k.shape[0] - 1), positions)
    )
    counted = np.asarray(positions) >= 0
    error = np.linalg.norm((out - reference)[counted]) / np.linalg.norm(reference[counted])
    assert error < TOLERANCE


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    "config",
    [
        TuningConfig(),
        TuningConfig(3, pages_per_step=1, num_stages=4),
        TuningConfig(3, pages_per_step=1, take_turns=False),
    ],
)
def test_it_lowers_for_a_gpu_without_one(config, head_dim):
    *operands, _ = make_case([0, 0], [0, 64], [64, 64], kv_heads=2, group=7, head_dim=head_dim)
    run = jax.jit(paged_prefill, static_argnames="config")
    assert "mosaic_gpu" in lower_for_h200(run, *operands, config=config).as_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_consumers": 4}, "num_consumers must be 2 or 3, got 4"),
        ({"num_stages": 1}, "num_stages must be at least 2, got 1"),
    ],
)
def test_a_config_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        TuningConfig(**change)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 32, 1, 2, 64), BF16, "blocks of 64 queries, got 32"),
        ((1, 64, 1, 2, 96), BF16, "head_dim must be 64 or 128, got 96"),
        ((1, 64, 1, 2, 64), jnp.float32, "one 16-bit type, got float32, bfloat16, bfloat16"),
    ],
)
def test_it_refuses_what_it_does_not_take(shape, dtype, message):
    pages = jnp.zeros((2, 1, PAGE, shape[-1]), BF16)
    one = jnp.ones(1, jnp.int32)
    with pytest.raises(ValueError, match=message):
        paged_prefill(jnp.zeros(shape, dtype), pages, pages, one[:, None], one, one)
