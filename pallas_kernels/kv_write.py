"""Writing new keys and values into their pages, in place."""

import jax
from jaxtyping import Array, Float, Int


def write_pages(
    pages: Float[Array, "L pages K page H"],
    layer: Int[Array, ""] | int,
    new: Float[Array, "T K H"],
    page_ids: Int[Array, " T"],
    offsets: Int[Array, " T"],
) -> Float[Array, "L pages K page H"]:
    """The cache with `new[t]` at offset `offsets[t]` of page `page_ids[t]`.

    Args:
        pages: the keys or the values of all layers.
        layer: which layer's pages are written.
        page_ids: an id past the last page drops the token: so padding is written nowhere.
    """
    with jax.named_scope("kv_write"):
        return pages.at[layer, page_ids, :, offsets].set(
            new.astype(pages.dtype), mode="drop", unique_indices=True
        )
