"""Writes GGUF files of Qwen2's architecture with random weights: they run, and speak nonsense."""

import argparse
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from benchmarks.vocabulary import CHAT_TEMPLATE, make_vocabulary

ARCH = "qwen2"
CHUNK_VALUES = 1 << 22  # of a matrix that are in memory at a time
# Logits of standard deviation 4: the best token then leads by more than rounding can change.
HEAD_GAIN = 4.0


@dataclass(frozen=True)
class Size:
    """The shape of a model."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    context: int
    tied: bool = False


SIZES = {
    #                  L   D     N   K  F      V        context
    "tiny": Size(      2,  256,  4,  2, 512,   1_024,   2_048),
    "tiny-kv4": Size(  2,  256,  4,  4, 512,   1_024,   2_048),
    "tiny-gqa": Size(  2,  384,  6,  2, 512,   1_024,   2_048),
    "tiny-tied": Size( 2,  256,  4,  2, 512,   1_024,   2_048, tied=True),
    "0.5b": Size(      24, 896,  14, 2, 4_864, 151_936, 32_768),
    "7b": Size(        28, 3584, 28, 4, 18_944, 152_064, 32_768),
}  # fmt: skip

# Where the scale of a block is, where the scale of its minimum is, and how many times larger that
# one is: values then lie around zero. The types that gguf reads and cannot write.
RANDOM_BLOCKS: dict[Type, tuple[int, int | None, float]] = {
    Type.Q2_K: (80, 82, 1.5),
    Type.Q3_K: (108, None, 0),
    Type.Q4_K: (0, 2, 7.5),
    Type.Q5_K: (0, 2, 15.5),
    Type.Q6_K: (208, None, 0),
    Type.IQ4_NL: (0, None, 0),
    Type.IQ4_XS: (0, None, 0),
}
QUANTISED = (
    Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0
)  # fmt: skip

# As llama.cpp mixes them: most matrices, then what differs. "half" are the layers that llama.cpp
# gives more bits: the first and last eighth and every third between.
MIXTURES: dict[str, dict[str, Type]] = {
    "Q2_K": {"": Type.Q2_K, "attn_v": Type.Q4_K, "attn_output": Type.Q3_K, "ffn_down": Type.Q3_K},
    "Q3_K_M": {
        "": Type.Q3_K, "attn_v": Type.Q4_K, "attn_output": Type.Q4_K, "ffn_down": Type.Q4_K,
        "attn_v first": Type.Q5_K, "ffn_down first": Type.Q5_K,
    },
    "Q4_K_M": {"": Type.Q4_K, "attn_v half": Type.Q6_K, "ffn_down half": Type.Q6_K},
    "Q5_K_M": {"": Type.Q5_K, "attn_v half": Type.Q6_K, "ffn_down half": Type.Q6_K},
}  # fmt: skip

# For rows that are no multiple of 256, as llama.cpp falls back.
NARROW = {
    Type.Q2_K: Type.IQ4_NL,
    Type.Q3_K: Type.IQ4_NL,
    Type.IQ4_XS: Type.IQ4_NL,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
}

TENSOR_TYPES = (
    *(type_.name for type_ in (*QUANTISED, *RANDOM_BLOCKS)),
    "Q3_K_M",
    "Q4_K_M",
    "Q5_K_M",
)


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: normal values of a mean and a standard deviation."""

    name: str
    shape: tuple[int, ...]
    type: Type
    mean: float
    std: float


def write_gguf(
    path: str | PathLike[str], size: str = "tiny", tensor_type: str = "F32", seed: int = 0
) -> Path:
    """Writes the file and returns its path.

    One seed gives one model: the F16, Q8_0, Q4_0 … files of a seed are its F32 file, rounded.
    K-quants are random blocks instead, quick to write, and hold a model of their own.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    if tensor_type not in TENSOR_TYPES:
        raise ValueError(f"type must be one of {', '.join(TENSOR_TYPES)}, got {tensor_type!r}")
    shape = SIZES[size]
    tensors = list(tensors_of(shape, tensor_type))
    writer = gguf.GGUFWriter(path, ARCH)
    add_metadata(writer, shape, f"Random Qwen2 {size}", tensor_type)
    for tensor in tensors:
        row_bytes = bytes_per_row(tensor.shape[-1], tensor.type)
        num_rows = int(np.prod(tensor.shape[:-1]))
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), num_rows * row_bytes, tensor.type
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        out = writer.fout[0]
        # The writer takes a tensor as one array; a chunk at a time keeps 7B out of memory.
        writer.write_padding(out, out.tell())
        for tensor in tensors:
            num_bytes = 0
            for chunk in chunks(tensor, seed):
                chunk.tofile(out)
                num_bytes += chunk.nbytes
            writer.write_padding(out, num_bytes)
    finally:
        writer.close()
    return Path(path)


def add_metadata(writer: gguf.GGUFWriter, size: Size, name: str, tensor_type: str) -> None:
    """The keys that llama.cpp's converter writes for Qwen2."""
    writer.add_type("model")
    writer.add_name(name)
    writer.add_block_count(size.layers)
    writer.add_context_length(size.context)
    writer.add_embedding_length(size.width)
    writer.add_feed_forward_length(size.ffn)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.kv_heads)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    file_types = {kind.name.split("_", 1)[-1]: kind for kind in gguf.LlamaFileType}
    writer.add_file_type(file_types.get(tensor_type, gguf.LlamaFileType.GUESSED))
    vocabulary = make_vocabulary(size.vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_eos_token_id(vocabulary.id_of("<|im_end|>"))
    writer.add_pad_token_id(vocabulary.id_of("<|endoftext|>"))
    writer.add_bos_token_id(vocabulary.id_of("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def tensors_of(size: Size, tensor_type: str) -> Iterator[Tensor]:
    """Every tensor of a model, in llama.cpp's names."""
    kv_width = size.width // size.heads * size.kv_heads

    def matrix(name: str, out: int, fan_in: int, layer: int = 0, gain: float = 1.0) -> Tensor:
        kind = type_of(name, fan_in, tensor_type, layer, size.layers)
        return Tensor(f"{name}.weight", (out, fan_in), kind, 0.0, gain * fan_in**-0.5)

    def norm(name: str) -> Tensor:
        return Tensor(f"{name}.weight", (size.width,), Type.F32, 1.0, 0.1)

    # as large as what a layer adds, or the answer would hardly depend on the prompt
    embedding_gain = HEAD_GAIN if size.tied else size.width**0.5
    yield matrix("token_embd", size.vocab, size.width, gain=embedding_gain)
    for layer in range(size.layers):
        blk = f"blk.{layer}"
        yield norm(f"{blk}.attn_norm")
        for name, out in (("attn_q", size.width), ("attn_k", kv_width), ("attn_v", kv_width)):
            yield matrix(f"{blk}.{name}", out, size.width, layer)
            yield Tensor(f"{blk}.{name}.bias", (out,), Type.F32, 0.0, 0.2)
        yield matrix(f"{blk}.attn_output", size.width, size.width, layer)
        yield norm(f"{blk}.ffn_norm")
        yield matrix(f"{blk}.ffn_gate", size.ffn, size.width, layer)
        yield matrix(f"{blk}.ffn_up", size.ffn, size.width, layer)
        yield matrix(f"{blk}.ffn_down", size.width, size.ffn, layer)
    yield norm("output_norm")
    if not size.tied:
        yield matrix("output", size.vocab, size.width, gain=HEAD_GAIN)


def type_of(name: str, fan_in: int, tensor_type: str, layer: int, num_layers: int) -> Type:
    """The type of a matrix in a file of `tensor_type`."""
    role = name.rsplit(".", 1)[-1]
    if tensor_type not in MIXTURES:
        kind = Type[tensor_type]
    elif role == "output":
        kind = Type.Q6_K
    else:
        mixture = MIXTURES[tensor_type]
        kind = mixture.get(role, mixture[""])
        if layer < 2 if role == "attn_v" else layer < num_layers // 16:
            kind = mixture.get(f"{role} first", kind)
        eighth = num_layers // 8
        if layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2:
            kind = mixture.get(f"{role} half", kind)
    block_size, _ = gguf.GGML_QUANT_SIZES[kind]
    return NARROW.get(kind, kind) if fan_in % block_size else kind


def bytes_per_row(num_values: int, kind: Type) -> int:
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    assert num_values % block_size == 0, (num_values, kind)
    return num_values // block_size * block_bytes


def chunks(tensor: Tensor, seed: int) -> Iterator[np.ndarray]:
    """The bytes of a tensor, some rows at a time."""
    rng = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
    num_rows, num_columns = int(np.prod(tensor.shape[:-1])), tensor.shape[-1]
    rows_at_once = max(1, CHUNK_VALUES // num_columns)
    for start in range(0, num_rows, rows_at_once):
        rows = min(rows_at_once, num_rows - start)
        if tensor.type in RANDOM_BLOCKS:
            yield random_blocks(tensor.type, rows, num_columns, tensor.std, rng)
        else:
            values = rng.standard_normal((rows, num_columns), dtype=np.float32)
            yield gguf.quants.quantize(values * np.float32(tensor.std) + tensor.mean, tensor.type)


def random_blocks(
    kind: Type, rows: int, columns: int, std: float, rng: np.random.Generator
) -> np.ndarray:
    """Rows of blocks whose numbers are random and whose scales give a standard deviation."""
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    row_bytes = bytes_per_row(columns, kind)
    blocks = np.frombuffer(rng.bytes(rows * row_bytes), np.uint8).reshape(-1, block_bytes).copy()
    set_scale(blocks, kind, 1.0)
    measured = gguf.quants.dequantize(blocks[:1_024].reshape(1, -1), kind).std()
    set_scale(blocks, kind, std / float(measured))
    return blocks.reshape(rows, row_bytes)


def set_scale(blocks: np.ndarray, kind: Type, scale: float) -> None:
    scale_at, min_at, ratio = RANDOM_BLOCKS[kind]
    blocks[:, scale_at : scale_at + 2] = np.array([scale], np.float16).view(np.uint8)
    if min_at is not None:
        blocks[:, min_at : min_at + 2] = np.array([scale * ratio], np.float16).view(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.make_gguf", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--type", choices=TENSOR_TYPES, default="F32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    path = write_gguf(args.out, args.size, args.type, args.seed)
    print(f"{path}: {path.stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
