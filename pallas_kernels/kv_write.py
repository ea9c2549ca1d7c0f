"""Writing new keys and values into their pages, in place."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def write_pages(
    pages: Float[Array, "L pages K page H"],
    layer: Int[Array, ""] | int,
    new: Float[Array, "T K H"],
    page_ids: Int[Array, " T"],
    offsets: Int[Array, " T"],
) -> Float[Array, "L pages K page H"]:
    """The cache with `new[t]` at offset `offsets[t]` of page `page_ids[t]`; NaN and inf become 0.

    Args:
        pages: the keys or the values of all layers.
        layer: which layer's pages are written.
        page_ids: an id past the last page drops the token: so padding is written nowhere.
    """
    with jax.named_scope("kv_write"):
        # A request with a NaN ends, and its pages get new owners: the weights of zero for what lies
        # past their context must meet finite numbers.
        finite = jnp.where(jnp.isfinite(new), new, 0).astype(pages.dtype)
        return pages.at[layer, page_ids, :, offsets].set(finite, mode="drop", unique_indices=True)
