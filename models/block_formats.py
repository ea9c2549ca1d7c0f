"""The block formats of GGUF, one function each: bytes in, float32 values out, in traced JAX.

A row is a sequence of blocks; a block is a few scales and the small integers they multiply. Each
function takes uint8 `[..., bytes]` and returns float32 `[..., values]` for one block length, as
the table FORMATS says. The layouts are ggml's (ggml-common.h); all numbers are little-endian.

Exactness: a scale has 11 significant bits, a sub-scale at most 6 and a value at most 8, together
at most 24 for every format here: the products are exact in float32. Therefore neither their order
nor a multiply-add fused by the compiler can change a bit of `d * sc * q - dmin * m`, and there is
one rounding at most, that of the difference.

Speed: no gather and no concatenation over values. A field of bits is taken out by shifting its
bytes, broadcast over a new axis, by an amount that depends on the position along that axis; a new
axis before the bytes' own gives the values their natural order.
"""

from collections.abc import Callable
from dataclasses import dataclass

import gguf
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32, UInt8

Type = gguf.GGMLQuantizationType

# The values that IQ4's 4-bit codes stand for (ggml's kvalues_iq4nl).
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

type Blocks = UInt8[Array, "*batch bytes"]
type Values = Float32[Array, "*batch values"]


@dataclass(frozen=True)
class BlockFormat:
    """How many values a block of how many bytes holds, and the function that decodes it."""

    num_values: int
    num_bytes: int
    decode: Callable[[Array], Array]


def _f32(blocks: Blocks) -> Values:
    return lax.bitcast_convert_type(blocks, jnp.float32)[..., None]


def _f16(blocks: Blocks) -> Values:
    return _half(blocks)


def _bf16(blocks: Blocks) -> Values:
    # by shifting, not by converting: subnormals must survive on devices that flush them
    bits = lax.bitcast_convert_type(blocks, jnp.uint16)[..., None].astype(jnp.uint32)
    return lax.bitcast_convert_type(bits << 16, jnp.float32)


def _q8_0(blocks: Blocks) -> Values:
    """d f16, q int8[32]."""
    return _half(blocks[..., :2]) * _signed(blocks[..., 2:])


def _q4_0(blocks: Blocks) -> Values:
    """d f16, 16 bytes of nibbles: value i low in byte i, value 16+i high in byte i."""
    return _half(blocks[..., :2]) * (_floats(_nibbles(blocks[..., 2:])) - 8)


def _q4_1(blocks: Blocks) -> Values:
    """d f16, m f16, nibbles."""
    d, m = _half(blocks[..., :2]), _half(blocks[..., 2:4])
    return d * _floats(_nibbles(blocks[..., 4:])) + m


def _q5_0(blocks: Blocks) -> Values:
    """d f16, the 32 fifth bits in a u32, nibbles."""
    q = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6])
    return _half(blocks[..., :2]) * (_floats(q) - 16)


def _q5_1(blocks: Blocks) -> Values:
    """d f16, m f16, the fifth bits, nibbles."""
    q = _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8])
    return _half(blocks[..., :2]) * _floats(q) + _half(blocks[..., 2:4])


def _iq4_nl(blocks: Blocks) -> Values:
    """d f16, nibbles that are codes."""
    return _half(blocks[..., :2]) * _iq4(_nibbles(blocks[..., 2:]))


def _q2_k(blocks: Blocks) -> Values:
    """16 bytes (sc low, m high nibble), 64 bytes of 2-bit values, d f16, dmin f16."""
    scales = blocks[..., :16]
    d = _half(blocks[..., 80:82]) * _floats(scales & 15)
    m = _half(blocks[..., 82:84]) * _floats(scales >> 4)
    q = _planes(blocks[..., 16:80], 32, bits=2)
    return _scaled(q, d) - _spread(m, 256)


def _q3_k(blocks: Blocks) -> Values:
    """32 bytes of third bits, 64 bytes of 2-bit values, 12 bytes of 6-bit scales, d f16."""
    packed = blocks[..., 96:108]
    low = _planes(packed[..., :8], 8, bits=4)
    high = _planes(packed[..., 8:], 4, bits=2)
    d = _half(blocks[..., 108:110]) * (_floats(low | (high << 4)) - 32)
    q = _planes(blocks[..., 32:96], 32, bits=2) | (_planes(blocks[..., :32], 32, bits=1) << 2)
    return _scaled(q, d, zero=4)


def _q4_k(blocks: Blocks) -> Values:
    """d f16, dmin f16, 12 bytes of eight 6-bit (sc, m), 128 bytes of nibbles by 32."""
    d, m = _scales_and_mins(blocks)
    return _scaled(_planes(blocks[..., 16:], 32, bits=4), d) - _spread(m, 256)


def _q5_k(blocks: Blocks) -> Values:
    """As Q4_K, with 32 bytes of fifth bits before the nibbles."""
    d, m = _scales_and_mins(blocks)
    q = _planes(blocks[..., 48:], 32, bits=4) | (_planes(blocks[..., 16:48], 32, bits=1) << 4)
    return _scaled(q, d) - _spread(m, 256)


def _q6_k(blocks: Blocks) -> Values:
    """128 bytes of low nibbles by 64, 64 bytes of high bit pairs, 16 int8 scales, d f16."""
    q = _planes(blocks[..., :128], 64, bits=4) | (_planes(blocks[..., 128:192], 32, bits=2) << 4)
    d = _half(blocks[..., 208:210]) * _signed(blocks[..., 192:208])
    return _scaled(q, d, zero=32)


def _iq4_xs(blocks: Blocks) -> Values:
    """d f16, 8 high bit pairs of the scales in a u16, their 8 low nibbles, nibbles by 16."""
    high = lax.bitcast_convert_type(blocks[..., 2:4], jnp.uint16)[..., None]
    high = (high >> (2 * lax.iota(jnp.uint16, 8))).astype(jnp.uint8) & 3
    low = blocks[..., 4:8, None] >> (4 * lax.iota(jnp.uint8, 2)) & 15
    sub = low.reshape(high.shape) | (high << 4)
    d = _half(blocks[..., :2]) * (_floats(sub) - 32)
    values = _iq4(_planes(blocks[..., 8:], 16, bits=4))
    return values * _spread(d, 256)


FORMATS = {
    kind: BlockFormat(*gguf.GGML_QUANT_SIZES[kind], decode)
    for kind, decode in {
        Type.F32: _f32,
        Type.F16: _f16,
        Type.BF16: _bf16,
        Type.Q8_0: _q8_0,
        Type.Q4_0: _q4_0,
        Type.Q4_1: _q4_1,
        Type.Q5_0: _q5_0,
        Type.Q5_1: _q5_1,
        Type.Q2_K: _q2_k,
        Type.Q3_K: _q3_k,
        Type.Q4_K: _q4_k,
        Type.Q5_K: _q5_k,
        Type.Q6_K: _q6_k,
        Type.IQ4_NL: _iq4_nl,
        Type.IQ4_XS: _iq4_xs,
    }.items()
}


def _half(two_bytes: UInt8[Array, "*batch 2"]) -> Float32[Array, "*batch 1"]:
    return lax.bitcast_convert_type(two_bytes, jnp.float16).astype(jnp.float32)[..., None]


def _signed(numbers: Array) -> Array:
    return lax.bitcast_convert_type(numbers, jnp.int8).astype(jnp.float32)


def _floats(numbers: Array) -> Array:
    return numbers.astype(jnp.float32)


def _planes(packed: Array, width: int, *, bits: int) -> Array:
    """The fields of `bits` bits of each run of `width` bytes: first all lowest, then the next.

    With width 2 and bits 4 the bytes [0x21, 0x43] hold the values [1, 3, 2, 4].
    """
    *batch, num_bytes = packed.shape
    shifts = bits * lax.iota(jnp.uint8, 8 // bits)[:, None]
    runs = packed.reshape(*batch, num_bytes // width, 1, width)
    fields = (runs >> shifts) & ((1 << bits) - 1)
    return fields.reshape(*batch, num_bytes * 8 // bits)


def _nibbles(packed: Array) -> Array:
    return _planes(packed, 16, bits=4)


def _fifth_bits(packed: Array) -> Array:
    return _planes(packed, 1, bits=1) << 4


def _scales_and_mins(blocks: Array) -> tuple[Array, Array]:
    """d * sc and dmin * m of Q4_K and Q5_K, float32 `[..., 8]` each.

    Of the 12 bytes, four hold the first four sc, four the first four m; the last four hold the
    low nibbles of the others, whose high bit pairs lie on top of the first eight bytes.
    """
    first, last = blocks[..., 4:12], blocks[..., 12:16]
    head, top = first & 63, first >> 6 << 4
    sc = jnp.concatenate([head[..., :4], last & 15 | top[..., :4]], axis=-1)
    m = jnp.concatenate([head[..., 4:], last >> 4 | top[..., 4:]], axis=-1)
    d, dmin = _half(blocks[..., :2]) * _floats(sc), _half(blocks[..., 2:4]) * _floats(m)
    # keeps XLA from unpacking them anew for each of 32 values: up to 3 times as fast on CPU
    d, dmin = lax.optimization_barrier((d, dmin))
    return d, dmin


def _spread(scales: Array, num_values: int) -> Array:
    """Repeats each scale over the values of its group: `[..., groups]` to `[..., values]`."""
    *batch, groups = scales.shape
    wide = jnp.broadcast_to(scales[..., None], (*batch, groups, num_values // groups))
    return wide.reshape(*batch, num_values)


def _scaled(q: Array, scales: Array, *, zero: int = 0) -> Array:
    return (_floats(q) - zero) * _spread(scales, q.shape[-1])


def _iq4(codes: Array) -> Array:
    return jnp.take(jnp.array(IQ4_VALUES, jnp.float32), codes, mode="clip")
