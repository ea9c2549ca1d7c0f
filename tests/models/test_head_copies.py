"""Heads that several devices hold: the same attention, with zeros where heads cannot be shared."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.head_copies import HeadCopies, head_copies, on_devices
from models.sites import site_shapes
from tests.models.test_mesh import MODEL

H, D = 4, 8


@pytest.mark.parametrize(("copies", "group"), [(1, 3), (2, 3), (2, 4), (4, 3), (3, 7)])
def test_what_leaves_attention_is_the_same(copies, group):
    spread, random = HeadCopies(copies, group, H), np.random.default_rng(copies)
    qkv = random.normal(size=(2, (group + 2) * H, D)).astype(np.float32)
    out = random.normal(size=(D, 2, group * H)).astype(np.float32)
    rows, columns = spread.rows(jnp.asarray(qkv)), spread.columns(jnp.asarray(out))
    own = spread.own_group
    assert rows.shape == (2 * copies, (own + 2) * H, D)
    assert columns.shape == (D, 2 * copies, own * H)
    x = random.normal(size=(5, D)).astype(np.float32)
    np.testing.assert_allclose(
        attend(x, rows, columns, own), attend(x, qkv, out, group), rtol=1e-4, atol=1e-4
    )
    biases = random.normal(size=(2, (group + 2) * H)).astype(np.float32)
    both = spread.rows(jnp.asarray(np.stack([biases, biases], axis=-1)))
    np.testing.assert_array_equal(spread.rows(jnp.asarray(biases)), both[..., 0])


def attend(x, qkv, out, group):
    """Attention of every token to all, without positions."""
    heads = np.einsum("TD,KRD->TKR", x, np.asarray(qkv))
    q, k, v = np.split(heads, [group * H, (group + 1) * H], axis=-1)
    q = q.reshape(len(x), -1, group, H)
    scores = np.einsum("TKGH,CKH->KGTC", q, k)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    z = np.einsum("KGTC,CKH->TKGH", scores / scores.sum(axis=-1, keepdims=True), v)
    return np.einsum("TKR,DKR->TD", z.reshape(len(x), len(qkv), -1), np.asarray(out))


def test_the_models_heads_are_counted_with_their_copies():
    assert on_devices(MODEL, 2) is on_devices(MODEL, 4) is MODEL
    spread = on_devices(MODEL, 8)
    assert (spread.num_kv_heads, spread.num_heads, spread.head_copies) == (8, 8, 2)
    assert head_copies(MODEL, 8).own_group == 1
    twelve = on_devices(MODEL, 12)  # 2 query heads of each kv head among 3 devices
    assert (twelve.num_kv_heads, twelve.num_heads) == (12, 12)


def test_nobody_looks_into_copies():
    sites = site_shapes(on_devices(MODEL, 8), context=10)
    assert "layers.0.attn.out" in sites and "layers.0.mlp.act" in sites
    assert not {"layers.0.attn.q", "layers.0.attn.k", "layers.0.attn.pattern"} & sites.keys()
