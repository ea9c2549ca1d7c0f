"""The contexts that an instance of the decode kernel reads, and in which steps."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


class Item(NamedTuple):
    """A request's context, or a split of it, before one kv head.

    Attributes:
        is_real: false for what fills the last instance up.
        end: keys from the context's beginning to the end of the split.
        first: place of the first page in the request's table.
        last: place of the last page.
        start: steps of the instance's items before this one.
        steps: in which its pages are read.
    """

    is_real: Any
    row: Any
    head: Any
    end: Any
    first: Any
    last: Any
    start: Any
    steps: Any


def items_of(
    lengths: Any,  # [B]
    *,
    instance: Any,
    split: Any,
    num_kv_heads: int,
    num_splits: int,
    num_items: int,
    page_size: int,
    pages_per_step: int,
) -> tuple[list[Item], Array]:
    """An instance's items, spread as far apart as they go, and the steps of all."""
    num_pairs = lengths.shape[0] * num_kv_heads
    num_instances = -(-num_pairs // num_items)
    items: list[Item] = []
    total = jnp.int32(0)
    for i in range(num_items):
        number = instance + i * num_instances
        is_real = number < num_pairs
        number = jnp.where(is_real, number, 0)
        row, head = (op(number, jnp.int32(num_kv_heads)) for op in (lax.div, lax.rem))
        length = jnp.where(is_real, lengths[row], 0)
        num_pages = _times(length, page_size)
        each = _times(num_pages, num_splits)
        first = split * each
        count = jnp.clip(num_pages - first, 0, each)
        end = jnp.minimum(length, (first + count) * page_size)
        steps = _times(count, pages_per_step)
        items.append(Item(is_real, row, head, end, first, first + count - 1, total, steps))
        total = total + steps
    return items, total


def pages_of(items: list[Item], step: Any, pages_per_step: int) -> tuple[Any, Any, list[Any]]:
    """Row, kv head and places of the pages of one of the instance's steps.

    The last step of an item may name its last page again, whose keys are hidden there.
    """
    _, row, head, _, first, last, start, _ = items[0]
    for item in items[1:]:
        mine = step >= item.start
        row, head = jnp.where(mine, item.row, row), jnp.where(mine, item.head, head)
        first, last = jnp.where(mine, item.first, first), jnp.where(mine, item.last, last)
        start = jnp.where(mine, item.start, start)
    begin = first + (step - start) * pages_per_step
    return row, head, [jnp.minimum(begin + i, last) for i in range(pages_per_step)]


def _times(size: Any, part: int) -> Any:
    """How many parts it takes to hold so much."""
    return lax.div(size + (part - 1), jnp.int32(part))
