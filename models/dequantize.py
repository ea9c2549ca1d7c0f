"""Turns the blocks of a GGUF tensor into float32 numbers, on the device or on the host."""

import gguf
import gguf.quants
import numpy as np
from jaxtyping import Array, Float32, UInt8

from models.block_formats import FORMATS
from models.errors import ModelFileError

Type = gguf.GGMLQuantizationType

ON_DEVICE = frozenset(FORMATS)

# Rare types whose codebooks have up to 2,048 entries: decoded once, at start, by gguf's numpy.
ON_HOST = frozenset(
    {
        Type.IQ1_S,
        Type.IQ1_M,
        Type.IQ2_XXS,
        Type.IQ2_XS,
        Type.IQ2_S,
        Type.IQ3_XXS,
        Type.IQ3_S,
        Type.TQ1_0,
        Type.TQ2_0,
        Type.MXFP4,
        Type.NVFP4,
    }
)


def dequantize(
    raw: UInt8[Array, "rows bytes"], tensor_type: gguf.GGMLQuantizationType
) -> Float32[Array, "rows cols"]:
    """Decodes the rows of a tensor; traced, `tensor_type` is static. Bit-equal to ggml's floats.

    Raises:
        ModelFileError: if the type is not in ON_DEVICE.
    """
    if tensor_type not in ON_DEVICE:
        raise ModelFileError(f"type {tensor_type.name} is not decoded on the device")
    block = FORMATS[tensor_type]
    rows, row_bytes = raw.shape
    blocks = raw.reshape(rows, row_bytes // block.num_bytes, block.num_bytes)
    return block.decode(blocks).reshape(rows, -1)


def dequantize_on_host(
    raw: UInt8[np.ndarray, "rows bytes"], tensor_type: gguf.GGMLQuantizationType
) -> Float32[np.ndarray, "rows cols"]:
    """Decodes the rows of a tensor of a type that `dequantize` leaves to the host.

    Raises:
        ModelFileError: if the type is not in ON_HOST.
    """
    if tensor_type not in ON_HOST:
        raise ModelFileError(f"type {tensor_type.name} is not decoded on the host")
    # a broken scale shows as a number that is not finite, as on the device, not as a warning
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(raw, tensor_type)
