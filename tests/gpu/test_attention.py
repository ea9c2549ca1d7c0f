"""The attention kernels on the card, against the float32 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.hopper_attention import hopper_attention
from pallas_kernels.paged_attention import paged_attention_reference

pytestmark = pytest.mark.gpu

BF16 = jnp.bfloat16
TOLERANCE = 4e-3


def check(block_q, kv_heads, group, head_dim, starts, lengths, seed):
    rng = np.random.default_rng(seed)
    rows, pages_each = len(starts), max(-(-(s + block_q) // 64) for s in starts)
    num_pages = rows * pages_each + 1
    q = jnp.asarray(
        rng.normal(size=(rows, block_q, kv_heads, group, head_dim)) * head_dim**-0.5, BF16
    )
    shape = (num_pages, kv_heads, 64, head_dim)
    k, v = (jnp.asarray(rng.normal(size=shape), BF16) for _ in range(2))
    order = rng.permutation(np.arange(1, num_pages)).reshape(rows, pages_each)
    tables = jnp.asarray(order, jnp.int32)
    place = np.arange(block_q)
    starts, lengths = np.array(starts), np.array(lengths)
    positions = np.where(place < lengths[:, None], starts[:, None] + place, -1).astype(np.int32)
    out = jax.jit(hopper_attention)(q, k, v, tables, positions)
    reference = paged_attention_reference(
        q.astype(jnp.float32), k, v, tables, jnp.asarray(positions)
    )
    counted = positions >= 0
    ours = np.asarray(out.astype(jnp.float32))
    assert np.isfinite(ours).all()
    theirs = np.asarray(reference)[counted]
    assert np.linalg.norm(ours[counted] - theirs) <= TOLERANCE * np.linalg.norm(theirs)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("group", [1, 4, 7, 16])
@pytest.mark.parametrize("rows", [1, 3, 128, 300])
def test_decode(head_dim, group, rows):
    rng = np.random.default_rng(rows)
    starts = rng.integers(0, 1500 if rows < 10 else 300, rows).tolist()
    lengths = [int(i % 5 != 4) for i in range(rows)]
    check(1, 2, group, head_dim, starts, lengths, seed=group)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("group", [1, 7])
def test_prefill(head_dim, group):
    check(64, 2, group, head_dim, [0, 64, 640, 1003, 70], [64, 64, 17, 64, 0], seed=group)


@pytest.mark.parametrize("rows", [3, 128])  # split, and not
def test_rows_are_written_among_what_stands_there(rows):
    rng = np.random.default_rng(rows)
    tables = jnp.asarray(rng.permutation(rows * 8).reshape(rows, 8), jnp.int32)
    shape = (rows * 8 + 1, 2, 64, 128)
    k, v = (jnp.asarray(rng.normal(size=shape), BF16) for _ in range(2))
    q = jnp.asarray(rng.normal(size=(rows + 64, 1, 2, 8, 128)) * 128**-0.5, BF16)
    positions = jnp.asarray(rng.integers(-60, 512, (rows, 1)).clip(-1), jnp.int32)
    into = jnp.full((rows + 64, 1, 2, 7, 128), 7, BF16)
    run = jax.jit(hopper_attention, static_argnames="group")
    out = run(q, k, v, tables, positions, group=7, first_page=1, into=into)
    is_row = np.append(np.asarray(positions[:, 0]) >= 0, [False] * 64)
    ours = np.asarray(out.astype(jnp.float32))
    assert (ours[~is_row] == 7).all()
    queries = q[:rows, :, :, :7].astype(jnp.float32)
    reference = paged_attention_reference(queries, k, v, tables + 1, positions)
    theirs = np.asarray(reference)[is_row[:rows]]
    assert np.linalg.norm(ours[is_row] - theirs) <= TOLERANCE * np.linalg.norm(theirs)
