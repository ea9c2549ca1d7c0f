"""A sound qwen2 file gives its numbers; a contradiction or a number out of range is refused."""

import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest

from models.config import ModelConfig, RopeScaling, model_config
from models.errors import ModelFileError
from models.gguf_file import GGUFFile, TensorInfo, open_gguf

VOCAB, WIDTH = 12, 32

METADATA = {
    "general.architecture": "qwen2",
    "general.name": "Tiny",
    "qwen2.block_count": 2,
    "qwen2.context_length": 128,
    "qwen2.embedding_length": WIDTH,
    "qwen2.feed_forward_length": 64,
    "qwen2.attention.head_count": 4,
    "qwen2.attention.head_count_kv": 2,
    "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
    "qwen2.rope.freq_base": 1e6,
    "tokenizer.ggml.tokens": tuple(f"t{i}" for i in range(VOCAB)),
    "tokenizer.ggml.token_type": (1,) * VOCAB,
    "tokenizer.ggml.eos_token_id": VOCAB - 1,
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.padding_token_id": 0,
}

TINY = ModelConfig(
    architecture="qwen2",
    name="Tiny",
    num_layers=2,
    width=WIDTH,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    ffn_width=64,
    vocab_size=VOCAB,
    context_length=128,
    rms_eps=1e-6,
    rope_theta=1e6,
    rope_scaling=None,
    tied_embeddings=True,
)

ABSENT = object()


def tiny_file(changes: dict[str, object], **matrices: tuple[int, int]) -> GGUFFile:
    """The file above with some keys changed or ABSENT, and its matrices by name and shape."""
    metadata = {key: value for key, value in (METADATA | changes).items() if value is not ABSENT}
    tensors = {}
    for name, shape in (matrices or {"token_embd": (VOCAB, WIDTH)}).items():
        data = np.zeros((shape[0], 4 * shape[1]), np.uint8)
        name = f"{name}.weight"
        tensors[name] = TensorInfo(name, shape, gguf.GGMLQuantizationType.F32, data)
    return GGUFFile(Path("tiny.gguf"), metadata, tensors, 0)


def test_the_numbers_of_a_file_are_read():
    assert model_config(tiny_file({})) == TINY


@pytest.mark.model
def test_the_real_model_is_described(model_file):
    config = model_config(open_gguf(model_file))
    assert (config.num_layers, config.width, config.ffn_width) == (24, 896, 4864)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (14, 2, 64)
    assert (config.vocab_size, config.context_length) == (151_936, 32_768)
    assert (config.rope_theta, config.rope_scaling) == (1e6, None)
    assert config.rms_eps == pytest.approx(1e-6)
    assert not config.tied_embeddings


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"general.name": ABSENT}, {"name": "tiny"}),
        ({"qwen2.rope.freq_base": ABSENT}, {"rope_theta": 10_000.0}),
        ({"qwen2.attention.head_count_kv": ABSENT}, {"num_kv_heads": 4}),
        ({"qwen2.attention.key_length": 16}, {"head_dim": 16}),
        ({"qwen2.rope.dimension_count": 8, "qwen2.attention.value_length": 8}, {}),
        ({"qwen2.vocab_size": VOCAB, "tokenizer.ggml.scores": (0.5,) * VOCAB}, {}),
        ({"qwen2.attention.causal": True, "tokenizer.ggml.bos_token_id": ABSENT}, {}),
        ({"qwen2.rope.scaling.type": "none", "qwen2.rope.scaling.factor": 4.0}, {}),
        ({"qwen2.rope.scaling.finetuned": True}, {}),
    ],
)
def test_what_may_be_absent_has_its_default(changes, expected):
    assert model_config(tiny_file(changes)) == dataclasses.replace(TINY, **expected)


def test_an_output_matrix_unties_the_embeddings():
    file = tiny_file({}, token_embd=(VOCAB, WIDTH), output=(VOCAB, WIDTH))
    assert not model_config(file).tied_embeddings


LINEAR = RopeScaling("linear", 4.0, 128, 1.0, 1.0, 32.0, 1.0)


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"scaling.type": "linear", "scaling.factor": 4.0}, LINEAR),
        ({"scaling.factor": 4.0}, LINEAR),
        ({"scale_linear": 4.0}, LINEAR),
        (
            {
                "scaling.type": "yarn",
                "scaling.factor": 4.0,
                "scaling.original_context_length": 32,
            },
            dataclasses.replace(LINEAR, type="yarn", original_context_length=32),
        ),
        (
            {
                "scaling.type": "yarn",
                "scaling.factor": 2.0,
                "scaling.attn_factor": 0.5,
                "scaling.yarn_attn_factor": 3.0,
                "scaling.yarn_ext_factor": 0.25,
                "scaling.yarn_beta_fast": 16.0,
                "scaling.yarn_beta_slow": 2.0,
            },
            RopeScaling("yarn", 2.0, 128, 1.5, 0.25, 16.0, 2.0),
        ),
    ],
)
def test_rope_scaling_is_read(scaling, expected):
    file = tiny_file({f"qwen2.rope.{key}": value for key, value in scaling.items()})
    assert model_config(file).rope_scaling == expected


@pytest.mark.parametrize(
    ("scaling", "problem"),
    [
        ({"type": "longrope", "factor": 2.0}, "'longrope' is not supported, only none, linear"),
        ({"type": "yarn"}, "scaling.factor': is missing"),
        ({"type": "linear", "factor": 0.5}, "must be a number from 1 to"),
        ({"type": "linear", "factor": float("nan")}, "got nan"),
        ({"type": "yarn", "factor": 2.0, "original_context_length": 0}, "must be an integer"),
        ({"type": "yarn", "factor": 2.0, "yarn_beta_fast": 1.0}, "must exceed beta_slow"),
        ({"type": "yarn", "factor": 2.0, "yarn_ext_factor": -1.0}, "must be a number from 0 to 1"),
        ({"alpha": 1000.0}, "scaling.alpha': this rope scaling is not supported"),
        ({"yarn_log_multiplier": 0.1}, "this rope scaling is not supported"),
    ],
)
def test_rope_scaling_that_is_not_understood_is_refused(scaling, problem):
    file = tiny_file({f"qwen2.rope.scaling.{key}": value for key, value in scaling.items()})
    with pytest.raises(ModelFileError, match=problem):
        model_config(file)


REQUIRED = (
    "general.architecture",
    "qwen2.block_count",
    "qwen2.context_length",
    "qwen2.embedding_length",
    "qwen2.feed_forward_length",
    "qwen2.attention.head_count",
    "qwen2.attention.layer_norm_rms_epsilon",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
)


@pytest.mark.parametrize("key", REQUIRED)
def test_an_absent_number_is_named(key):
    with pytest.raises(ModelFileError, match=f"tiny.gguf: key '{key}': is missing"):
        model_config(tiny_file({key: ABSENT}))


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("general.architecture", "llama", "'llama' is not supported, only qwen2"),
        ("qwen2.attention.causal", False, "must be true, to generate text"),
        ("qwen2.block_count", 0, "must be an integer from 1 to 256"),
        ("qwen2.block_count", 257, "must be an integer from 1 to 256"),
        ("qwen2.context_length", 0, "must be an integer from 1"),
        ("qwen2.embedding_length", 1 << 40, "must be an integer from 1 to 65,536"),
        ("qwen2.embedding_length", 30, "width 30 does not divide among 4 heads"),
        ("qwen2.embedding_length", 28, "head dimension of 7, must be even"),
        ("qwen2.embedding_length", 4 * 258, "head dimension of 258, must be even and <= 256"),
        ("qwen2.embedding_length", 64, "token_embd.weight': has shape"),
        ("qwen2.feed_forward_length", 0, "must be an integer from 1"),
        ("qwen2.attention.head_count", 0, "must be an integer from 1"),
        ("qwen2.attention.head_count", (4, 4), "got an array of 2"),
        ("qwen2.attention.head_count_kv", 0, "must be an integer from 1"),
        ("qwen2.attention.head_count_kv", 3, "4 query heads do not divide among 3 kv heads"),
        ("qwen2.attention.head_count_kv", 8, "4 query heads do not divide among 8 kv heads"),
        ("qwen2.attention.key_length", 7, "head dimension of 7, must be even"),
        ("qwen2.attention.value_length", 16, "must equal the head dimension 8"),
        ("qwen2.rope.dimension_count", 4, "must equal the head dimension 8"),
        ("qwen2.attention.layer_norm_rms_epsilon", 0.0, "must be a number"),
        ("qwen2.attention.layer_norm_rms_epsilon", 0.2, "must be a number"),
        ("qwen2.attention.layer_norm_rms_epsilon", float("nan"), "got nan"),
        ("qwen2.rope.freq_base", 0.5, "must be a number from 1 to 1e"),
        ("qwen2.rope.freq_base", 2e9, "must be a number from 1 to 1e"),
        ("qwen2.rope.freq_base", float("inf"), "got inf"),
        ("qwen2.vocab_size", VOCAB + 1, "13 is not the number of tokens, 12"),
        ("tokenizer.ggml.tokens", (), "0 tokens, supported are 1 to 500,000"),
        ("tokenizer.ggml.tokens", ("",) * 500_001, "500,001 tokens, supported"),
        ("tokenizer.ggml.tokens", ("",) * (VOCAB + 1), "12 is not the number of tokens, 13"),
        ("tokenizer.ggml.tokens", (1,) * VOCAB, "must be an array of str"),
        ("tokenizer.ggml.token_type", (1,) * (VOCAB - 1), "11 is not the number of tokens, 12"),
        ("tokenizer.ggml.scores", (0.5,), "1 is not the number of tokens, 12"),
        ("tokenizer.ggml.eos_token_id", VOCAB, "must be an integer from 0 to 11, got 12"),
        ("tokenizer.ggml.bos_token_id", -1, "must be an integer from 0 to 11"),
        ("tokenizer.ggml.padding_token_id", 1 << 31, "must be an integer from 0 to 11"),
        ("tokenizer.ggml.fim_pre_token_id", VOCAB, "must be an integer from 0 to 11"),
    ],
)
def test_a_number_out_of_range_is_refused(key, value, problem):
    with pytest.raises(ModelFileError, match=problem):
        model_config(tiny_file({key: value}))


@pytest.mark.parametrize(
    ("matrices", "problem"),
    [
        ({"output": (VOCAB, WIDTH)}, "tensor 'token_embd.weight': is missing"),
        ({"token_embd": (VOCAB + 1, WIDTH)}, "token_embd.weight': has shape"),
        ({"token_embd": (VOCAB, WIDTH), "output": (VOCAB, 31)}, "output.weight': has shape"),
    ],
)
def test_matrices_that_contradict_the_vocabulary_are_refused(matrices, problem):
    with pytest.raises(ModelFileError, match=problem):
        model_config(tiny_file({}, **matrices))
