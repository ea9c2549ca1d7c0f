"""Small vocabularies of both kinds, the real one, and a template worker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.gguf_file import open_gguf
from runtime.text.template_process import TemplateWorker
from runtime.text.tokenizer import BYTE_OF_LETTER, Tokenizer, build_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def bpe(**changes: Any) -> dict[str, Any]:
    """256 letters, five merges, and tokens of every type; ids in the order written."""
    letters = sorted(BYTE_OF_LETTER, key=lambda letter: BYTE_OF_LETTER[letter])
    words = {
        **dict.fromkeys([*letters, "he", "ll", "hell", "hello", "Ġhello"], NORMAL),
        **dict.fromkeys(["<|im_start|>", "<|im_end|>", "<|box|>"], CONTROL),
        "<think>": USER_DEFINED,
        "[PAD1]": UNUSED,
        "</s>": NORMAL,
    }
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": list(words),
        "tokenizer.ggml.token_type": list(words.values()),
        "tokenizer.ggml.merges": ["h e", "l l", "he ll", "hell o", "Ġ hello"],
        "tokenizer.ggml.eos_token_id": list(words).index("<|im_end|>"),
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def spm(**changes: Any) -> dict[str, Any]:
    """A SentencePiece vocabulary of <unk>, <s>, </s>, the bytes and a few pieces."""
    pieces = ["▁", "h", "e", "l", "o", "w", "r", "d", "he", "ll", "hell", "hello", "▁hello"]
    words = {
        "<unk>": UNKNOWN,
        **dict.fromkeys(["<s>", "</s>"], CONTROL),
        **dict.fromkeys([f"<0x{byte:02X}>" for byte in range(256)], BYTE),
        **dict.fromkeys(pieces, NORMAL),
        "<tool>": USER_DEFINED,
    }
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": list(words),
        "tokenizer.ggml.token_type": list(words.values()),
        "tokenizer.ggml.scores": [
            float(len(word)) if kind == NORMAL else 0.0 for word, kind in words.items()
        ],
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


@pytest.fixture(scope="session")
def bpe_metadata() -> Any:
    return bpe


@pytest.fixture(scope="session")
def spm_metadata() -> Any:
    return spm


@pytest.fixture(scope="session")
def small() -> Tokenizer:
    return build_tokenizer(bpe())


@pytest.fixture(scope="session")
def small_spm() -> Tokenizer:
    return build_tokenizer(spm())


@pytest.fixture(scope="session")
def real_metadata(model_file: Path) -> dict[str, Any]:
    return dict(open_gguf(model_file).metadata)


@pytest.fixture(scope="session")
def real(real_metadata: dict[str, Any]) -> Tokenizer:
    return build_tokenizer(real_metadata)


@pytest.fixture(scope="session")
def worker() -> Iterator[TemplateWorker]:
    with TemplateWorker() as worker:
        yield worker
