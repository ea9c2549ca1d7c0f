"""Paged attention that shows its pattern: plain, whole contexts at once, for experiments."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from models.grouped_product import mix, score
from models.kv_cache import BLOCK_Q, Attention, KVCache, ModelInput, make_entrance
from models.projection import Projection
from models.sites import PATTERN, Tap

_MASKED = -1e30  # finite, so that a padding query stays free of NaN


def make_pattern_attention(step: ModelInput, tap: Tap) -> Attention[KVCache]:
    """As `make_paged_attention`, with the pattern [T, N, C] of every token going through `tap`.

    C is the whole width of the page table, P * page: memory grows with it, not with the lengths.
    """
    entrance = make_entrance(step)
    queries = _Queries(step)

    def attention(projection: Projection, cache: KVCache) -> tuple[Array, KVCache]:
        layer = projection.layer
        q, cache = entrance(projection, cache)
        with jax.named_scope("attention"):
            k_pages, v_pages = cache.k[layer], cache.v[layer]
            scores = queries.over_contexts(score, q, k_pages)
            visible = jnp.arange(scores.shape[-1]) <= step.positions[:, None, None, None]
            scores = jnp.where(visible, scores, _MASKED)
            top = scores.max(axis=-1, keepdims=True)
            weights = jnp.where(visible, jnp.exp(scores - top), 0)
            total = jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)
            pattern = (weights / total).reshape(q.shape[0], -1, weights.shape[-1])
            seen = tap(PATTERN, layer, pattern)
            if seen is not pattern:  # somebody changed it
                weights, total = seen.reshape(weights.shape), jnp.ones_like(total)
            out = queries.over_contexts(mix, weights, v_pages)
            return (out / total).astype(q.dtype), cache

    return attention


class _Queries:
    """The step's tokens as blocks that each have one context: single rows, and query blocks."""

    def __init__(self, step: ModelInput):
        num_rows, num_blocks = step.num_rows, step.blocks.shape[0]
        is_block = jnp.repeat(step.blocks >= 0, BLOCK_Q)[:num_rows]
        self._num_rows, self._num_blocks = num_rows, num_blocks
        self._is_row = ~is_block if num_blocks else jnp.ones(num_rows, bool)
        last = jnp.where(step.positions >= 0, step.positions, -1)
        self._row_tables = step.page_table.at[step.slots[:num_rows]].get(mode="clip")
        self._row_lengths = last[:num_rows] + 1
        self._block_tables = step.page_table.at[jnp.maximum(step.blocks, 0)].get(mode="clip")
        self._block_lengths = (
            last.reshape(num_blocks, BLOCK_Q).max(axis=1) + 1 if num_blocks else None
        )

    def over_contexts(
        self, product: Callable[[Array, Array], Array], x: Array, pages: Array
    ) -> Array:
        """A `models.grouped_product` of [T, …] with each token's context, out of pages."""
        x_rows = x[: self._num_rows, None]
        rows = _product(product, x_rows, pages, self._row_tables, self._row_lengths)[:, 0]
        if self._block_lengths is None:
            return rows
        x_blocks = x.reshape(self._num_blocks, BLOCK_Q, *x.shape[1:])
        lengths = self._block_lengths
        blocks = _product(product, x_blocks, pages, self._block_tables, lengths)
        merged = blocks.reshape(-1, *blocks.shape[2:])
        is_row = self._is_row.reshape(-1, *(1,) * (rows.ndim - 1))
        front = jnp.where(is_row, rows, merged[: self._num_rows])
        return merged.at[: self._num_rows].set(front)


def _product(
    product: Callable[[Array, Array], Array], x: Array, pages: Array, tables: Array, lengths: Array
) -> Array:
    context = pages[tables].swapaxes(1, 2)  # [B, K, P, page, H]
    context = context.reshape(*context.shape[:2], -1, context.shape[-1])
    # a page's unused tail may hold anything, NaN too, and 0 * NaN is NaN
    written = jnp.arange(context.shape[2]) < lengths[:, None]
    return product(x, jnp.where(written[:, None, :, None], context, 0))
