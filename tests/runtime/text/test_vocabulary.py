"""What a vocabulary may leave out, and what a bad one is told."""

from typing import Any

import numpy as np
import pytest

from models.errors import ModelFileError
from runtime.text.tokenizer import build_tokenizer


def test_numeric_arrays_may_be_numpy(bpe_metadata: Any) -> None:
    types = np.array(bpe_metadata()["tokenizer.ggml.token_type"], np.int32)
    assert build_tokenizer(bpe_metadata(token_type=types)).eos_id is not None


def test_types_default_to_normal(bpe_metadata: Any) -> None:
    metadata = bpe_metadata()
    del metadata["tokenizer.ggml.token_type"]
    tokenizer = build_tokenizer(metadata)
    names = {
        tokenizer.token_text(i) for i in range(tokenizer.vocab_size) if tokenizer.is_control(i)
    }
    assert names == {"<|im_end|>", "</s>"}


def test_an_empty_token_gets_a_name(bpe_metadata: Any) -> None:
    tokens = [*bpe_metadata()["tokenizer.ggml.tokens"], ""]
    types = [*bpe_metadata()["tokenizer.ggml.token_type"], 5]
    tokenizer = build_tokenizer(bpe_metadata(tokens=tokens, token_type=types))
    assert tokenizer.token_text(len(tokens) - 1) == f"[EMPTY_{len(tokens) - 1}]"


@pytest.mark.parametrize(
    ("changes", "key", "problem"),
    [
        ({"model": None}, "model", "missing"),
        ({"model": 3}, "model", "must be a str"),
        ({"model": "rwkv"}, "model", "not supported"),
        ({"pre": "brand-new"}, "pre", "unknown pre-tokenizer 'brand-new'; known are"),
        ({"tokens": None}, "tokens", "missing"),
        ({"tokens": "abc"}, "tokens", "must be an array"),
        ({"tokens": []}, "tokens", "empty"),
        ({"tokens": ["a", "a"]}, "tokens", "'a' occurs twice"),
        ({"tokens": ["a", 1]}, "tokens", "entry 1"),
        ({"token_type": [1]}, "token_type", "1 entries"),
        ({"token_type": np.full(267, 9)}, "token_type", "unknown types"),
        ({"merges": None}, "merges", "missing"),
        ({"merges": [1]}, "merges", "entry 0"),
        ({"merges": ["he"]}, "merges", "merge 0"),
        ({"merges": ["h e", "zz y"]}, "merges", "merge 1"),
        ({"eos_token_id": 10**6}, "eos_token_id", "no id"),
        ({"eos_token_id": -1}, "eos_token_id", "no id"),
        ({"eos_token_id": "2"}, "eos_token_id", "no id"),
        ({"padding_token_id": True}, "padding_token_id", "no id"),
        ({"fim_rep_token_id": 1.5}, "fim_rep_token_id", "no id"),
        ({"add_bos_token": 1}, "add_bos_token", "must be a bool"),
        ({"add_bos_token": True}, "add_bos_token", "does not name"),
    ],
)
def test_bad_metadata_is_refused_by_key(
    bpe_metadata: Any, changes: dict[str, Any], key: str, problem: str
) -> None:
    with pytest.raises(ModelFileError, match=problem) as error:
        build_tokenizer(bpe_metadata(**changes))
    assert f"tokenizer.ggml.{key}:" in str(error.value)


def test_an_endless_control_token_is_refused(bpe_metadata: Any) -> None:
    tokens = bpe_metadata()["tokenizer.ggml.tokens"]
    tokens[tokens.index("<|box|>")] = "<" * 300
    with pytest.raises(ModelFileError, match="300 characters"):
        build_tokenizer(bpe_metadata(tokens=tokens))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"scores": None}, "scores: is missing"),
        ({"scores": [float("nan")] * 273}, "scores: entry 0"),
        ({"scores": ["x"] * 273}, "scores: entry 0"),
        ({"scores": [1e300] * 273}, "scores: entry 0"),
        ({"token_type": [1] * 273}, "0 tokens of type UNKNOWN"),
        ({"token_type": [2, 3, 3, 6] + [1] * 269}, "1 tokens of type BYTE"),
        ({"token_type": [2, 3, 3] + [1] * 14 + [6] * 256}, "typed as a byte and is none"),
    ],
)
def test_a_bad_sentencepiece_vocabulary_is_refused(
    spm_metadata: Any, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ModelFileError, match=problem):
        build_tokenizer(spm_metadata(**changes))


def test_a_token_that_sentencepiece_cannot_hold_is_refused(spm_metadata: Any) -> None:
    tokens = spm_metadata()["tokenizer.ggml.tokens"]
    tokens[-1] = "a\0b"
    with pytest.raises(ModelFileError, match="null character"):
        build_tokenizer(spm_metadata(tokens=tokens))
