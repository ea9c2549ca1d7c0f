"""Attention over pages is softmax attention over each context, whatever else the pages hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.paged_attention import paged_attention, paged_attention_reference

PAGE = 64
IMPLEMENTATIONS = {
    "reference": paged_attention_reference,
    "xla": paged_attention,
    "xla, page by page": lambda *x: paged_attention(*x, pages_per_iteration=1),
}
# float32: sums in another order. bfloat16: weights and results have 8 bits of mantissa.
TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2}


@pytest.fixture(params=IMPLEMENTATIONS, scope="module")
def attend(request):
    return jax.jit(IMPLEMENTATIONS[request.param])


def by_hand(q, k, v, positions):
    """One query after the other, in float64, over contexts that lie in one piece."""
    out = np.zeros(q.shape)
    for b, i in np.argwhere(positions >= 0):
        seen = positions[b, i] + 1
        scores = np.einsum("KGH,KCH->KGC", q[b, i], k[b][:, :seen])
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out[b, i] = np.einsum("KGC,KCH->KGH", weights, v[b][:, :seen])
    return out


def contexts(positions, *, num_kv_heads=2, group=1, head_dim=64, width=3, dtype="float32", seed=0):
    """Queries; keys and values in shuffled pages, the rest of which is NaN; and the same whole."""
    rng = np.random.default_rng(seed)
    blocks, block_q = positions.shape
    rounded = lambda *s: np.asarray(jnp.asarray(rng.normal(size=s), dtype), np.float64)  # noqa: E731
    q = rounded(blocks, block_q, num_kv_heads, group, head_dim) * head_dim**-0.5
    q = np.asarray(jnp.asarray(q, dtype), np.float64)
    k, v = (rounded(blocks, num_kv_heads, width * PAGE, head_dim) for _ in range(2))
    num_pages = blocks * width + 2
    order = rng.permutation(np.arange(1, num_pages))
    tables = np.zeros((blocks, width), np.int32)
    pages = np.full((2, num_pages, num_kv_heads, PAGE, head_dim), np.nan)
    for b in range(blocks):
        length = positions[b].max() + 1
        for p in range(-(-length // PAGE)):
            tables[b, p], order = order[0], order[1:]
            end = min(PAGE, length - p * PAGE)
            for kind, whole in enumerate((k, v)):
                part = whole[b][:, p * PAGE : p * PAGE + end]
                pages[kind, tables[b, p], :, :end] = part
    arrays = [jnp.asarray(x, dtype) for x in (q, *pages)]
    return (*arrays, jnp.asarray(tables), jnp.asarray(positions)), (q, k, v)


def check(attend, positions, **shape):
    paged, whole = contexts(positions, **shape)
    out = attend(*paged)
    assert out.dtype == paged[0].dtype
    np.testing.assert_allclose(
        np.asarray(out, np.float64),
        by_hand(*whole, positions),
        atol=TOLERANCE[shape.get("dtype", "float32")],
    )


ROWS = np.array([[0], [62], [63], [64], [130], [191]], np.int32)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("group", "head_dim"), [(1, 64), (2, 128), (7, 64)])
def test_rows_of_odd_lengths(attend, group, head_dim, dtype):
    check(attend, ROWS, group=group, head_dim=head_dim, dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("group", "head_dim"), [(1, 128), (2, 64), (7, 64)])
def test_blocks_that_begin_anywhere(attend, group, head_dim, dtype):
    starts = np.array([0, 1, 63, 64, 100, 128], np.int32)
    positions = starts[:, None] + np.arange(64, dtype=np.int32)
    check(attend, positions, group=group, head_dim=head_dim, dtype=dtype)


def test_padded_rows_are_zero(attend):
    positions = np.array([[-1], [70], [-1], [3]], np.int32)
    check(attend, positions)
    paged, _ = contexts(positions)
    assert np.all(np.asarray(attend(*paged))[[0, 2]] == 0)


def test_padded_tails_of_blocks_are_zero(attend):
    positions = np.full((3, 64), -1, np.int32)
    positions[0, :1] = 5
    positions[1, :33] = np.arange(90, 123)
    check(attend, positions, group=2)
    paged, _ = contexts(positions, group=2)
    out = np.asarray(attend(*paged))
    assert np.all(out[0, 1:] == 0) and np.all(out[1, 33:] == 0) and np.all(out[2] == 0)


def test_a_step_of_padding_alone_is_zero(attend):
    paged, _ = contexts(np.full((4, 1), -1, np.int32))
    assert np.all(np.asarray(attend(*paged)) == 0)


@pytest.mark.parametrize("width", [1, 2, 5, 9])
def test_the_width_of_the_page_table_does_not_matter(attend, width):
    check(attend, np.array([[0], [17], [63]], np.int32), width=width)


def test_a_context_that_fills_its_table(attend):
    check(attend, np.array([[5 * PAGE - 1], [4 * PAGE], [2]], np.int32), width=5)


def test_large_scores_do_not_overflow(attend):
    paged, whole = contexts(ROWS)
    out = attend(paged[0] * 100, *paged[1:])
    want = by_hand(whole[0] * 100, *whole[1:], ROWS)
    np.testing.assert_allclose(out, want, atol=1e-4)


def test_requests_may_share_pages(attend):
    paged, whole = contexts(np.array([[100], [100]], np.int32))
    q, k, v, tables, _ = paged
    tables = jnp.stack([tables[0], tables[0]])
    out = attend(q, k, v, tables, jnp.array([[100], [80]]))
    shared = [np.stack([x[0], x[0]]) for x in whole[1:]]
    want = by_hand(whole[0], *shared, np.array([[100], [80]]))
    np.testing.assert_allclose(out, want, atol=TOLERANCE["float32"])


def test_a_row_is_the_same_alone_and_among_longer_ones(attend):
    positions = np.array([[40], [191], [-1]], np.int32)
    paged, _ = contexts(positions)
    q, k, v, tables, places = paged
    together = attend(*paged)
    alone = attend(q, k, v, tables, jnp.where(jnp.arange(3)[:, None] == 0, places, -1))
    np.testing.assert_allclose(together[0], alone[0], atol=1e-7)
