"""What top_k, top_p and min_p keep of a whole vocabulary, found by thresholds."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

# A pass of b bits compares with 2^b - 1 thresholds. Time on a GPU is passes over memory, and XLA
# makes seven sums of one operand in one pass, fifteen in two; on a CPU it is comparisons.
GPU_BITS, CPU_BITS = 3, 1
CHUNKS = 256  # of a row, summed by themselves

# (scores, their order) -> weights
type Weigh = Callable[[Float[Array, "S V"], UInt[Array, "S V"]], Float[Array, "S V"]]


def kept(
    z: Float[Array, "S V"],
    top_k: Int[Array, " S"] | None,
    top_p: Float[Array, " S"],
    min_p: Float[Array, " S"],
    *,
    bits: int,
) -> Bool[Array, "S V"]:
    """Mask of what is kept of each row. Tokens of equal score are kept together.

    With 3 bits 11 passes for top_p, and 11 for top_k unless it is None, over 4 S V bytes: 0.86 GB
    each at 128 rows of 152,064.
    """
    best = z.max(axis=-1, keepdims=True)
    order = _ordered_bits(z)
    lowest_k = jnp.zeros(z.shape[0], jnp.uint32)
    if top_k is not None:
        wanted = top_k.astype(jnp.float32)
        found = highest_threshold(z, lambda z, _: jnp.ones_like(z), wanted, bits=bits)
        lowest_k = jnp.where(top_k == 0, 0, found)

    def share_within_k(z: Array, order: Array) -> Array:
        share = jnp.exp(z - best)
        return share if top_k is None else jnp.where(order >= lowest_k[:, None], share, 0)

    (total,) = _row_sums([share_within_k(z, order)])
    lowest_p = highest_threshold(z, share_within_k, top_p * total, bits=bits)
    lowest = jnp.maximum(lowest_k, jnp.where(top_p < 1, lowest_p, 0))
    return (jnp.exp(z - best) >= min_p[:, None]) & (order >= lowest[:, None])


def _ordered_bits(z: Float[Array, "S V"]) -> UInt[Array, "S V"]:
    """Integers in the order of the floats: all bits of negative ones turned, else the sign."""
    bits = lax.bitcast_convert_type(z, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits >= sign, ~bits, bits ^ sign)


def highest_threshold(
    z: Float[Array, "S V"], weigh: Weigh, wanted: Float[Array, " S"], *, bits: int
) -> UInt[Array, " S"]:
    """For each row the highest t for which the weights of `_ordered_bits(z) >= t` reach `wanted`,
    or 0.

    `bits` of t are found in each pass, from the top.
    """
    found = jnp.zeros(z.shape[0], jnp.uint32)
    if bits == CPU_BITS:
        order = _ordered_bits(z)
        weights = weigh(z, order)

        def narrow(index: Array | int, found: Array) -> Array:
            shift = jnp.uint32(31) - jnp.asarray(index, jnp.uint32)
            return _narrowed(found, order, weights, wanted, shift, bits)

        return lax.fori_loop(0, 32, narrow, found)
    # no loop, which would cut the device's graph of kernels in two
    shift = 32
    while shift > 0:
        width = min(bits, shift)
        shift -= width
        # else XLA would keep order and weights of all passes in memory, and read both in each
        scores, found = lax.optimization_barrier((z, found))
        order = _ordered_bits(scores)
        found = _narrowed(found, order, weigh(scores, order), wanted, jnp.uint32(shift), width)
    return found


def _narrowed(
    found: Array, order: Array, weights: Array, wanted: Array, shift: Array, bits: int
) -> Array:
    """The threshold with some more bits, from `shift` on."""
    steps = [found + (jnp.uint32(step) << shift) for step in range(1, 2**bits)]
    sums = _row_sums([jnp.where(order >= step[:, None], weights, 0) for step in steps])
    return found + ((sums >= wanted).sum(axis=0, dtype=jnp.uint32) << shift)


def _row_sums(arrays: list[Float[Array, "S V"]]) -> Float[Array, "arrays S"]:
    """Sums side by side, in two stages: XLA would make the second one for each by itself."""
    num_rows, width = arrays[0].shape
    chunks = math.gcd(width, CHUNKS)
    parts = [array.reshape(num_rows, chunks, width // chunks).sum(axis=-1) for array in arrays]
    return jnp.stack(parts).sum(axis=-1)
