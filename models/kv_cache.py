"""The paged KV cache, one step's input to the model, and attention over both."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int

from models.config import PAGE_SIZE, ModelConfig
from models.projection import Projection
from models.sites import untouched
from pallas_kernels.kv_write import write_pages

BLOCK_Q = 64  # queries of a block: all of one request

# attention(projection, cache) -> (out [T K G H], cache)
type Attention[Cache] = Callable[[Projection, Cache], tuple[Array, Cache]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, in pages. Page 0 is only ever read.

    Attributes:
        k: [L, pages, K, page, H]
        v: [L, pages, K, page, H]
    """

    k: Array
    v: Array

    @property
    def pages(self) -> tuple[Array, Array]:
        """Keys and values, [L * pages, K, page, H]: no layer is sliced out, and copied."""
        k, v = (_in_rows(x.reshape(-1, *x.shape[2:])) for x in (self.k, self.v))
        return k, v

    def with_pages(self, k: Array, v: Array) -> "KVCache":
        """The cache of what `pages` has become."""
        return KVCache(*(_in_rows(_in_rows(x).reshape(self.k.shape)) for x in (k, v)))


def _in_rows(x: Array) -> Array:
    """The array in the order that it has in memory.

    Left to itself XLA gives pages of one kv head another order of axes in between, and copies the
    whole pool there and back in every step.
    """
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ModelInput:
    """The tokens of one step, where they stand and whose they are.

    The token axis is ragged: first the rows of one query each, then, from a multiple of BLOCK_Q on,
    blocks of BLOCK_Q queries that each belong to one request. With 3 decode rows and a chunk of 70
    tokens (BLOCK_Q = 64):

        token     0 1 2 | 3 … 63  | 64 … 127 | 128 … 133 | 134 … 191 | 192 … 255
        what      rows  | padding | block 1  | block 2   | padding   | padding
        blocks    -1              | slot     | slot                  | -1

    Attributes:
        token_ids: [T]
        positions: [T], the token's place in its context; -1 for padding
        slots: [T], the row of the page table that the token's context is in
        blocks: [T // 64 or 0], the slot of each query block; -1 where the tokens are single rows
        page_table: [S, P]
    """

    token_ids: Array
    positions: Array
    slots: Array
    blocks: Array
    page_table: Array

    @property
    def num_rows(self) -> int:
        """How many tokens at the front can be rows of one query."""
        return min(self.token_ids.shape[0], self.page_table.shape[0])


def cache_shape(config: ModelConfig, *, num_pages: int, page_size: int) -> tuple[int, ...]:
    """Shape of the keys, and of the values: [L, pages, K, page, H]."""
    return (config.num_layers, num_pages, config.num_kv_heads, page_size, config.head_dim)


class PagedAttention(Protocol):
    """`pallas_kernels.paged_attention.paged_attention`, or what is faster."""

    def __call__(
        self,
        q: Array,
        k_pages: Array,
        v_pages: Array,
        page_tables: Array,
        positions: Array,
        *,
        group: int,
        first_page: int | Array,
        into: Array | None = None,
    ) -> Array: ...


class Enter(Protocol):
    """`enter`, or what is faster."""

    def __call__(
        self,
        projection: Projection,
        k_pages: Array,
        v_pages: Array,
        page_ids: Array,
        offsets: Array,
    ) -> tuple[Array, Array, Array]: ...


class Decode(Protocol):
    """Both of one new token a request: its keys and values entered, and attention to its context.

    Gives the result [B, K, G, H] and the pages.
    """

    def __call__(
        self,
        projection: Projection,
        k_pages: Array,
        v_pages: Array,
        page_tables: Array,
        positions: Array,
    ) -> tuple[Array, Array, Array]: ...


def enter(
    projection: Projection,
    k_pages: Float[Array, "pages K page H"],
    v_pages: Float[Array, "pages K page H"],
    page_ids: Int[Array, " T"],
    offsets: Int[Array, " T"],
) -> tuple[
    Float[Array, "T K rows H"], Float[Array, "pages K page H"], Float[Array, "pages K page H"]
]:
    """The queries of a step's tokens, and the pages with their keys and values written.

    Args:
        page_ids: -1 for padding, which is written nowhere.

    Returns:
        queries, of which an implementation may give more rows than G, which mean nothing; pages.
    """
    q, k, v = projection.heads()
    k_pages = write_pages(k_pages, k, page_ids, offsets)
    return q, k_pages, write_pages(v_pages, v, page_ids, offsets)


def make_entrance(
    step: ModelInput, enter: Enter = enter
) -> Callable[[Projection, KVCache], tuple[Array, KVCache]]:
    """Queries of a step's tokens, and the cache with their keys and values, by `enter`."""
    place = jnp.maximum(step.positions, 0)
    offsets = place % PAGE_SIZE
    own_pages = step.page_table.at[step.slots, place // PAGE_SIZE].get(mode="clip")

    def entrance(projection: Projection, cache: KVCache) -> tuple[Array, KVCache]:
        first_page = projection.layer * cache.k.shape[1]
        q, k_pages, v_pages = enter(
            projection,
            *cache.pages,
            jnp.where(step.positions >= 0, own_pages + first_page, -1),
            offsets,
        )
        return q, cache.with_pages(k_pages, v_pages)

    return entrance


def make_paged_attention(
    step: ModelInput,
    attend: PagedAttention,
    enter: Enter = enter,
    decode: Decode | None = None,
) -> Attention[KVCache]:
    """Attention of a step's tokens over the paged cache; their keys and values are written first.

    Args:
        step: the tokens.
        attend: the implementation, as `pallas_kernels.paged_attention.paged_attention`.
        enter: what comes before.
        decode: both at once for steps of rows alone; None: one after the other.
    """
    num_rows, num_blocks = step.num_rows, step.blocks.shape[0]
    entrance = make_entrance(step, enter)
    is_row = jnp.ones(num_rows, bool)
    if num_blocks:
        is_row = step.blocks[jnp.arange(num_rows) // BLOCK_Q] < 0
    row_positions = jnp.where(is_row, step.positions[:num_rows], -1)[:, None]
    row_tables = step.page_table.at[step.slots[:num_rows]].get(mode="clip")
    block_tables = step.page_table.at[jnp.maximum(step.blocks, 0)].get(mode="clip")
    block_positions = jnp.where(
        step.blocks[:, None] >= 0, step.positions[: num_blocks * BLOCK_Q].reshape(-1, BLOCK_Q), -1
    )

    def attention(projection: Projection, cache: KVCache) -> tuple[Array, KVCache]:
        group, first_page = projection.group, projection.layer * cache.k.shape[1]
        # who looks at the heads needs them apart
        if decode is not None and not num_blocks and projection.tap is untouched:
            tables = row_tables + first_page
            mixed, k, v = decode(projection, *cache.pages, tables, row_positions[:, 0])
            return mixed, cache.with_pages(k, v)
        q, cache = entrance(projection, cache)
        own = partial(attend, group=group, first_page=first_page)
        with jax.named_scope("attention"):
            out = None
            if num_blocks:
                blocks = q.reshape(num_blocks, BLOCK_Q, *q.shape[1:])
                out = own(blocks, *cache.pages, block_tables, block_positions)
                out = out.reshape(q.shape[0], 1, q.shape[1], group, q.shape[3])
            rows = own(q[:, None], *cache.pages, row_tables, row_positions, into=out)
            return rows[:, 0], cache

    return attention
