"""Sound GGUF files to begin with."""

import struct

import gguf
import pytest

from tests.models.gguf_bytes import GGUFBytes

Type = gguf.GGMLQuantizationType


@pytest.fixture
def gguf_bytes() -> type[GGUFBytes]:
    return GGUFBytes


@pytest.fixture
def small_file() -> GGUFBytes:
    """A sound file of five keys and two tensors: 4 x 8 float32 and two rows of Q8_0."""
    return (
        GGUFBytes()
        .key("general.architecture", "qwen2")
        .key("tokenizer.ggml.tokens", ["a", "é", "<|end|>"])
        .key("tokenizer.ggml.token_type", [1, 1, 3])
        .key("qwen2.rope.freq_base", 1e6)
        .key("tokenizer.ggml.add_bos_token", False)
        .tensor("token_embd.weight", (8, 4), struct.pack("<32f", *range(32)))
        .tensor("output.weight", (32, 2), bytes(range(68)), kind=Type.Q8_0)
    )
