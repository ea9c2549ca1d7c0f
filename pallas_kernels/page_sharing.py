"""Which steps of a common stream of pages each computing warpgroup attends to."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Shares(NamedTuple):
    """What each of W consumers reads in each of C program instances.

    Attributes:
        first: [C, W], its first step in the stream of its instance.
        num_steps: [C, W], how many steps it attends to; 0 past the last tile.
        num_pages: [C, W], pages that somebody needs of its context.
    """

    first: Array
    num_steps: Array
    num_pages: Array


def same_pages(page_tables: Int[Array, "B P"]) -> Bool[Array, " B"]:
    """Whether a block's context is that of the block before it."""
    same = (page_tables[1:] == page_tables[:-1]).all(axis=1)
    return jnp.concatenate([jnp.zeros(1, bool), same])


def share_pages(
    num_pages: Int[Array, " B"],
    same: Bool[Array, " B"],
    *,
    group: int,
    num_consumers: int,
    pages_per_step: int,
) -> Shares:
    """Deals tiles (a block and one head of a group) to consumers, `num_consumers` in a row.

    The tiles are numbered by block, then by head. Tiles of one context read one stream of pages
    from its beginning; where a tile's context differs from that of the tile before it, its pages
    follow behind. With a group of 3, two consumers and two blocks of 2 and 3 steps:

        tile                     (0, 0) (0, 1) | (0, 2) (1, 0) | (1, 1) (1, 2)
        steps, the same context   0–1    0–1   |  0–1    0–2   |  0–2    0–2
        steps, two contexts       0–1    0–1   |  0–1    2–4   |  0–2    0–2

    Args:
        num_pages: that each block sees.
        same: whether a block's context is that of the block before it.
    """
    num_tiles = num_pages.shape[0] * group
    tiles = jnp.arange(-(-num_tiles // num_consumers) * num_consumers, dtype=jnp.int32)
    block = jnp.minimum(tiles // group, num_pages.shape[0] - 1)
    joins = ((tiles % group != 0) | same[block]).reshape(-1, num_consumers).T
    own = jnp.where(tiles < num_tiles, num_pages[block], 0).reshape(-1, num_consumers).T
    count = (own + (pages_per_step - 1)) // pages_per_step
    first, pages, end = [jnp.zeros_like(own[0])], [own[0]], count[0]
    for i in range(1, num_consumers):
        first.append(jnp.where(joins[i], first[-1], end))
        pages.append(jnp.where(joins[i], jnp.maximum(pages[-1], own[i]), own[i]))
        end = jnp.maximum(end, first[-1] + count[i])
    for i in range(num_consumers - 1, 0, -1):
        pages[i - 1] = jnp.where(joins[i], pages[i], pages[i - 1])
    return Shares(jnp.stack(first, axis=1), count.T, jnp.stack(pages, axis=1))
