"""Attention over a paged KV cache, for single queries and for blocks of queries, in plain XLA.

`paged_attention_reference` says what is meant; `paged_attention` is the same by an online softmax
that reads pages up to the longest context in use, so that its work follows the lengths and not the
width of the page table. Both take queries in blocks: a decode row is a block of one.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Keys of one iteration: 4 pages of 64 keep both cores of a small CPU and the tensor units busy.
PAGES_PER_ITERATION = 4

_MASKED = -1e30  # finite, so that a row without any key stays free of NaN


def paged_attention_reference(
    q: Float[Array, "B Q K G H"],
    k_pages: Float[Array, "pages K page H"],
    v_pages: Float[Array, "pages K page H"],
    page_tables: Int[Array, "B P"],
    positions: Int[Array, "B Q"],
) -> Float[Array, "B Q K G H"]:
    """Softmax attention of each query over the keys at 0 … position of its own context.

    Args:
        q: queries, already scaled.
        k_pages: keys, in pages.
        v_pages: values, in pages.
        page_tables: the pages of each block's context, in order.
        positions: place of each query in its context; -1 marks padding, which gives zeros.
    """
    k, v = (
        # [B, P, K, page, H] -> [B, K, C, H]
        pages[page_tables]
        .swapaxes(1, 2)
        .reshape(q.shape[0], pages.shape[1], -1, pages.shape[3])
        .astype(jnp.float32)
        for pages in (k_pages, v_pages)
    )
    scores = jnp.einsum(
        "BQKGH,BKCH->BKGQC", q.astype(jnp.float32), k, precision=lax.Precision.HIGHEST
    )
    key_positions = jnp.arange(k.shape[2])
    visible = key_positions <= positions[:, None, None, :, None]
    weights = jax.nn.softmax(jnp.where(visible, scores, _MASKED), axis=-1)
    # what lies past the context may be anything, NaN too, and 0 * NaN is NaN
    written = key_positions <= positions.max(axis=1)[:, None]
    v = jnp.where(written[:, None, :, None], v, 0)
    out = jnp.einsum("BKGQC,BKCH->BQKGH", weights, v, precision=lax.Precision.HIGHEST)
    return jnp.where(positions[:, :, None, None, None] >= 0, out, 0).astype(q.dtype)


@partial(jax.jit, static_argnames=("group", "pages_per_iteration"))
def paged_attention(
    q: Float[Array, "N Q K rows H"],
    k_pages: Float[Array, "pages K page H"],
    v_pages: Float[Array, "pages K page H"],
    page_tables: Int[Array, "B P"],
    positions: Int[Array, "B Q"],
    *,
    group: int | None = None,
    first_page: int | Array = 0,
    into: Float[Array, "N Q K G H"] | None = None,
    pages_per_iteration: int = PAGES_PER_ITERATION,
) -> Float[Array, "B Q K G H"] | Float[Array, "N Q K G H"]:
    """`paged_attention_reference` by an online softmax over a few pages at a time.

    Args:
        q: of which the first B blocks count.
        group: how many of a kv head's queries count, the first ones; None: all.
        first_page: the one that the tables call 0.
        into: what the result is written into, but for padding.

    Source: Milakov and Gimelshein, Online normalizer calculation for softmax, 2018.
    """
    q = q[: page_tables.shape[0], :, :, :group]
    page_tables = page_tables + first_page
    num_blocks, block_q, num_kv_heads, group, head_dim = q.shape
    page_size = k_pages.shape[2]
    width = min(pages_per_iteration, page_tables.shape[1])
    padding = -page_tables.shape[1] % width
    tables = jnp.pad(page_tables, ((0, 0), (0, padding)))
    span = width * page_size
    num_iterations = (positions.max() + span) // span  # 0 when every query is padding
    # one row for each query of each head of a group: both products are plain matrix products
    rows = q.transpose(0, 2, 3, 1, 4).reshape(num_blocks, num_kv_heads, group * block_q, head_dim)
    row_positions = jnp.tile(positions, (1, group))[:, None, :, None]

    # GPUs would round float32 factors to 10 bits
    precision = lax.Precision.HIGHEST if k_pages.dtype == jnp.float32 else lax.Precision.DEFAULT

    def fetch(pages: Array, ids: Array) -> Array:
        taken = pages[ids].swapaxes(1, 2)  # [B, K, width, page, H]
        return taken.reshape(num_blocks, num_kv_heads, span, head_dim)

    def attend(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        acc, top, total = carry
        ids = lax.dynamic_slice_in_dim(tables, i * width, width, axis=1)
        key_positions = i * span + jnp.arange(span)
        visible = key_positions <= row_positions
        scores = jnp.einsum(
            "BKRH,BKCH->BKRC",
            rows,
            fetch(k_pages, ids),
            precision=precision,
            preferred_element_type=jnp.float32,
        )
        scores = jnp.where(visible, scores, _MASKED)
        new_top = jnp.maximum(top, scores.max(axis=-1, keepdims=True))
        weights = jnp.where(visible, jnp.exp(scores - new_top), 0)
        shrink = jnp.exp(top - new_top)
        # a stale NaN in a page's unused tail must not reach its new owner: 0 * NaN is NaN
        written = key_positions <= positions.max(axis=1)[:, None, None]
        v = jnp.where(written[..., None], fetch(v_pages, ids), 0)
        new = jnp.einsum(
            "BKRC,BKCH->BKRH",
            weights.astype(v.dtype),
            v,
            precision=precision,
            preferred_element_type=jnp.float32,
        )
        return (
            acc * shrink + new,
            new_top,
            total * shrink + weights.sum(axis=-1, keepdims=True),
        )

    zeros = jnp.zeros((*rows.shape[:3], 1), jnp.float32)
    acc, _, total = lax.fori_loop(
        0,
        num_iterations,
        attend,
        (jnp.zeros(rows.shape, jnp.float32), zeros + _MASKED, zeros),
    )
    out = (acc / jnp.maximum(total, 1e-30)).astype(q.dtype)
    out = out.reshape(num_blocks, num_kv_heads, group, block_q, head_dim).transpose(0, 3, 1, 2, 4)
    return out if into is None else write_known(into, out, positions)


def write_known(
    into: Float[Array, "N Q K G H"], out: Float[Array, "B Q K G H"], positions: Int[Array, "B Q"]
) -> Float[Array, "N Q K G H"]:
    """`into`, with those queries of `out` in it that are no padding."""
    counts = (positions >= 0)[:, :, None, None, None]
    return into.at[: out.shape[0]].set(jnp.where(counts, out, into[: out.shape[0]]))
