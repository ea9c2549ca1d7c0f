"""`paged_attention` by the Mosaic GPU kernels, where they run."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.paged_attention import write_known
from pallas_kernels.paged_decode import choose_config, paged_decode
from pallas_kernels.paged_prefill import paged_prefill


def hopper_attention(
    q: Float[Array, "N Q K rows H"],
    k_pages: Float[Array, "pages K page H"],
    v_pages: Float[Array, "pages K page H"],
    page_tables: Int[Array, "B P"],
    positions: Int[Array, "B Q"],
    *,
    group: int | None = None,
    first_page: int | Array = 0,
    into: Float[Array, "N Q K G H"] | None = None,
    interpret: Any = None,
) -> Float[Array, "B Q K G H"] | Float[Array, "N Q K G H"]:
    """`pallas_kernels.paged_attention.paged_attention` for blocks of 1 or 64 queries.

    The queries of a block stand at consecutive positions, padding behind them; what padding gives
    is finite and means nothing. Pages hold finite numbers everywhere.

    Args:
        q: of any float type; it is computed in that of the pages.
        group: how many of a kv head's queries count, the first ones; None: all.
        into: for blocks of 1 query alone.

    Raises:
        ValueError: blocks of 64 queries are to be written into something.
    """
    kind = k_pages.dtype
    if q.dtype != kind:
        out = hopper_attention(
            q.astype(kind),
            k_pages,
            v_pages,
            page_tables,
            positions,
            group=group,
            first_page=first_page,
            into=None if into is None else into.astype(kind),
            interpret=interpret,
        )
        return out.astype(q.dtype)
    if q.shape[1] == 1:
        config = choose_config(page_tables.shape[0], q.shape[2], page_tables.shape[1])
        in_place = into is not None and config.num_splits == 1
        out = paged_decode(
            q[:, 0],
            k_pages,
            v_pages,
            page_tables + first_page,
            positions[:, 0] + 1,
            group=group,
            config=config,
            into=into[:, 0] if into is not None and in_place else None,
            interpret=interpret,
        )[:, None]
        return out if into is None or in_place else write_known(into, out, positions)
    if into is not None:
        raise ValueError("blocks of 1 query alone are written into what is given")
    return paged_prefill(
        q,
        k_pages,
        v_pages,
        page_tables,
        jnp.maximum(positions[:, 0], 0),
        (positions >= 0).sum(axis=1, dtype=jnp.int32),
        first_page=first_page,
        group=group,
        interpret=interpret,
    )


def takes_heads(*, group: int, head_dim: int, itemsize: int) -> bool:
    """Whether the kernels are made for such heads."""
    return group <= 16 and head_dim in (64, 128) and itemsize == 2
