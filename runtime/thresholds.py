"""What top_k, top_p and min_p keep of a whole vocabulary, found by thresholds."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

# A pass of b bits compares with 2^b - 1 thresholds. Time on a GPU is passes over memory, on a CPU
# it is comparisons.
GPU_BITS, CPU_BITS = 4, 1


def kept(
    z: Float[Array, "S V"],
    top_k: Int[Array, " S"] | None,
    top_p: Float[Array, " S"],
    min_p: Float[Array, " S"],
    *,
    bits: int,
) -> Bool[Array, "S V"]:
    """Mask of what is kept of each row. Tokens of equal score are kept together.

    With 4 bits 8 passes for top_p, and 8 for top_k unless it is None, over 4 S V bytes: 0.6 GB each
    at 128 rows of 152,064, about 0.2 ms at 3 TB/s.
    """
    order = _ordered_bits(z)
    share = within_k = jnp.exp(z - z.max(axis=-1, keepdims=True))
    lowest_k = jnp.zeros(z.shape[0], jnp.uint32)
    if top_k is not None:
        wanted = top_k.astype(jnp.float32)
        found = highest_threshold(order, jnp.ones_like(z), wanted, bits=bits)
        lowest_k = jnp.where(top_k == 0, 0, found)
        within_k = jnp.where(order >= lowest_k[:, None], share, 0)
    lowest_p = highest_threshold(order, within_k, top_p * within_k.sum(axis=-1), bits=bits)
    lowest = jnp.maximum(lowest_k, jnp.where(top_p < 1, lowest_p, 0))
    return (share >= min_p[:, None]) & (order >= lowest[:, None])


def _ordered_bits(z: Float[Array, "S V"]) -> UInt[Array, "S V"]:
    """Integers in the order of the floats: all bits of negative ones turned, else the sign."""
    bits = lax.bitcast_convert_type(z, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits >= sign, ~bits, bits ^ sign)


def highest_threshold(
    order: UInt[Array, "S V"],
    weights: Float[Array, "S V"],
    wanted: Float[Array, " S"],
    *,
    bits: int,
) -> UInt[Array, " S"]:
    """For each row the highest t for which the weights of `order >= t` reach `wanted`, or 0.

    `bits` of t are found in each pass, from the top.
    """

    def narrow(index: Array | int, found: Array) -> Array:
        shift = jnp.uint32(32 - bits) - jnp.uint32(bits) * jnp.asarray(index, jnp.uint32)
        steps = [found + (jnp.uint32(step) << shift) for step in range(1, 2**bits)]
        # sums of one operand side by side: XLA makes one pass of them
        reached = [
            jnp.where(order >= step[:, None], weights, 0).sum(axis=-1) >= wanted for step in steps
        ]
        return found + (jnp.stack(reached).sum(axis=0, dtype=jnp.uint32) << shift)

    lowest = jnp.zeros(order.shape[0], jnp.uint32)
    # a loop would cut the device's graph of kernels in two
    return lax.fori_loop(0, 32 // bits, narrow, lowest, unroll=bits == GPU_BITS)
