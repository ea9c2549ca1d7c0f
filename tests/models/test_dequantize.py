"""Decoded blocks are bit-equal to ggml's own floats, compiled or not."""

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.block_formats import FORMATS
from models.dequantize import ON_DEVICE, ON_HOST, dequantize, dequantize_on_host
from models.errors import ModelFileError

Type = gguf.GGMLQuantizationType

DEVICE_TYPES = sorted(ON_DEVICE)
HOST_TYPES = sorted(ON_HOST)
SETS = ("gguf", "ggml", "model")

decode = jax.jit(dequantize, static_argnames="tensor_type")


def name_of(kind: Type) -> str:
    return kind.name


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


def random_blocks(kind: Type, rows: int, cols: int) -> np.ndarray:
    """Rows of random bytes, in which only those scales are replaced that are not finite."""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(kind)
    blocks = rng.integers(0, 256, (rows * cols // block_size, block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        finite = np.isfinite(gguf.quants.dequantize(blocks, kind)).all(axis=1)
    sound = blocks[np.flatnonzero(finite)]
    blocks[~finite] = sound[np.arange((~finite).sum()) % len(sound)]
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("kind", DEVICE_TYPES + HOST_TYPES, ids=name_of)
def test_ggml_goldens_are_reproduced(goldens, kind):
    if kind == Type.F32:
        pytest.skip("needs no decoding, and so has no golden")
    with np.load(goldens / "dequant" / f"{kind.name}.npz") as golden:
        sets = [name for name in SETS if f"raw_{name}" in golden]
        assert sets
        for name in sets:
            raw, expected = golden[f"raw_{name}"], golden[f"deq_{name}"]
            if kind in ON_DEVICE:
                assert_same_bits(np.asarray(decode(raw, tensor_type=kind)), expected)
            else:
                assert_same_bits(dequantize_on_host(raw, kind), expected)


@pytest.mark.parametrize("kind", DEVICE_TYPES, ids=name_of)
def test_large_arrays_are_exact_when_compiled(kind):
    # 256 x 2,048 values: enough for XLA to vectorise, fuse multiply-adds and use its threads
    raw = random_blocks(kind, 256, 2_048)
    assert_same_bits(np.asarray(decode(raw, tensor_type=kind)), gguf.quants.dequantize(raw, kind))


@pytest.mark.parametrize("kind", DEVICE_TYPES, ids=name_of)
def test_odd_numbers_of_rows_and_blocks(kind):
    block_size, _ = gguf.GGML_QUANT_SIZES[kind]
    raw = random_blocks(kind, 3, 5 * block_size)
    assert_same_bits(np.asarray(decode(raw, tensor_type=kind)), gguf.quants.dequantize(raw, kind))


@pytest.mark.parametrize("kind", [Type.F16, Type.Q8_0, Type.Q4_K, Type.Q6_K], ids=name_of)
def test_subnormal_scales_are_not_flushed(kind):
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    # bytes below 4 make every float16 among them subnormal or tiny
    raw = np.random.default_rng(0).integers(0, 4, (8, 4 * block_bytes), dtype=np.uint8)
    expected = gguf.quants.dequantize(raw, kind)
    assert np.count_nonzero(expected) > 0
    assert_same_bits(np.asarray(decode(raw, tensor_type=kind)), expected)


@pytest.mark.parametrize("kind", DEVICE_TYPES, ids=name_of)
def test_decoding_needs_little_memory_beside_its_result(kind):
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = jax.ShapeDtypeStruct((256, 16 * block_bytes), jnp.uint8)
    memory = decode.lower(raw, tensor_type=kind).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 0.1 * memory.output_size_in_bytes


@pytest.mark.parametrize("kind", HOST_TYPES, ids=name_of)
def test_the_host_decodes_mapped_blocks_without_warnings(kind):
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(0)
    raw = np.frombuffer(rng.bytes(64 * 2 * block_bytes), np.uint8).reshape(64, -1)
    assert dequantize_on_host(raw, kind).shape == (64, 2 * block_size)


def test_every_format_has_ggmls_block_size():
    for kind, block in FORMATS.items():
        assert (block.num_values, block.num_bytes) == gguf.GGML_QUANT_SIZES[kind]


def test_a_type_that_is_not_decoded_is_refused_by_name():
    with pytest.raises(ModelFileError, match="type IQ1_S is not decoded on the device"):
        dequantize(jnp.zeros((1, 50), jnp.uint8), Type.IQ1_S)
    for kind in set(Type) - ON_DEVICE - ON_HOST:
        with pytest.raises(ModelFileError, match=f"type {kind.name} is not decoded on the device"):
            dequantize(jnp.zeros((1, 300), jnp.uint8), kind)
        with pytest.raises(ModelFileError, match=f"type {kind.name} is not decoded on the host"):
            dequantize_on_host(np.zeros((1, 300), np.uint8), kind)
