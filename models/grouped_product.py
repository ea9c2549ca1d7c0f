"""Products of grouped heads with keys and values, as attention over pages makes them.

In the same form and types, so that the sums are the same to the last bit where a back end makes
them in one order.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.multiply import exact_if_wide


def score(q: Float[Array, "B Q K G H"], k: Float[Array, "B K C H"]) -> Float[Array, "B Q K G C"]:
    """Scores of queries with the keys of their contexts, float32."""
    return _product("BKRH,BKCH->BKRC", q, k)


def mix(
    weights: Float[Array, "B Q K G C"], v: Float[Array, "B K C H"]
) -> Float[Array, "B Q K G H"]:
    """Sums of values, weighted in the type of these; float32."""
    return _product("BKRC,BKCH->BKRH", weights.astype(v.dtype), v)


def _product(equation: str, x: Array, context: Array) -> Array:
    num_blocks, block_q, num_kv_heads, group, width = x.shape
    rows = x.transpose(0, 2, 3, 1, 4).reshape(num_blocks, num_kv_heads, group * block_q, width)
    out = jnp.einsum(
        equation,
        rows,
        context,
        precision=exact_if_wide(context),
        preferred_element_type=jnp.float32,
    )
    out = out.reshape(num_blocks, num_kv_heads, group, block_q, out.shape[-1])
    return out.transpose(0, 3, 1, 2, 4)
