"""Writing new keys and values into their pages, in place."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def write_pages(
    pages: Float[Array, "pages K page H"],
    new: Float[Array, "T K H"],
    page_ids: Int[Array, " T"],
    offsets: Int[Array, " T"],
) -> Float[Array, "pages K page H"]:
    """The pages with `new[t]` at offset `offsets[t]` of page `page_ids[t]`; NaN and inf become 0.

    Args:
        pages: keys or values.
        page_ids: -1 drops the token: so padding is written nowhere.
    """
    with jax.named_scope("kv_write"):
        # A request with a NaN ends, and its pages get new owners: the weights of zero for what lies
        # past their context must meet finite numbers.
        finite = jnp.where(jnp.isfinite(new), new, 0).astype(pages.dtype)
        page_ids = jnp.where(page_ids < 0, pages.shape[0], page_ids)  # past the end is dropped
        return pages.at[page_ids, :, offsets].set(finite, mode="drop", unique_indices=True)
