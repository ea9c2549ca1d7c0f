"""The random model files: what is in them is what a converter would have written."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from benchmarks.make_gguf import SIZES, TENSOR_TYPES, tensors_of, write_gguf
from benchmarks.vocabulary import CONTROL_TOKENS, make_vocabulary
from models.config import model_config
from models.gguf_file import open_gguf


def read(path: Path) -> dict[str, np.ndarray]:
    reader = gguf.GGUFReader(path)
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}


@pytest.mark.parametrize("tensor_type", TENSOR_TYPES)
def test_values_have_the_scale_of_their_fan_in(tmp_path: Path, tensor_type: str) -> None:
    tensors = read(write_gguf(tmp_path / "m.gguf", "tiny", tensor_type))
    assert len(tensors) == 2 * 12 + 3
    for tensor in tensors_of(SIZES["tiny"], tensor_type):
        values = tensors[tensor.name]
        assert values.shape == tensor.shape
        assert values.std() == pytest.approx(tensor.std, rel=0.2)
        assert abs(values.mean() - tensor.mean) < 0.2 * tensor.std


def test_another_type_is_the_same_model_rounded(tmp_path: Path) -> None:
    exact = read(write_gguf(tmp_path / "a.gguf", "tiny", "F32"))
    rounded = read(write_gguf(tmp_path / "b.gguf", "tiny", "Q8_0"))
    for name, values in exact.items():
        np.testing.assert_allclose(rounded[name], values, atol=np.abs(values).max() / 200)


def test_a_seed_gives_one_file(tmp_path: Path) -> None:
    files = [
        write_gguf(tmp_path / f"{index}.gguf", "tiny", "Q4_K_M", seed=seed).read_bytes()
        for index, seed in enumerate((0, 0, 1))
    ]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("size", ["tiny", "tiny-kv4", "tiny-tied"])
def test_our_reader_finds_the_shape(tmp_path: Path, size: str) -> None:
    config = model_config(open_gguf(write_gguf(tmp_path / "m.gguf", size, "Q4_0")))
    assert config.num_kv_heads == SIZES[size].kv_heads
    assert config.head_dim == 64
    assert config.tied_embeddings == SIZES[size].tied


def test_the_mixture_of_the_real_half_billion_model() -> None:
    kinds = {tensor.name: tensor.type for tensor in tensors_of(SIZES["0.5b"], "Q4_K_M")}
    assert kinds["output.weight"] == kinds["blk.0.attn_v.weight"] == Type.Q8_0
    assert kinds["token_embd.weight"] == kinds["blk.5.attn_q.weight"] == Type.Q5_0
    assert kinds["blk.0.ffn_down.weight"] == Type.Q6_K
    assert sum(kind == Type.Q6_K for kind in kinds.values()) == 12
    assert sum(kind == Type.Q4_K for kind in kinds.values()) == 12


@pytest.mark.parametrize("size", [278, 1_024, 151_936])
def test_every_merge_joins_two_tokens_to_the_next(size: int) -> None:
    vocabulary = make_vocabulary(size)
    assert len(vocabulary.tokens) == len(vocabulary.types) == len(set(vocabulary.tokens)) == size
    known = set(vocabulary.tokens[:256])
    for token, merge in zip(vocabulary.tokens[256:], vocabulary.merges, strict=False):
        left, right = merge.split(" ")
        assert left in known and right in known and left + right == token
        known.add(token)
    assert vocabulary.id_of("<|endoftext|>") == 256 + len(vocabulary.merges)


def test_qwen2s_merges_and_control_tokens_sit_at_qwen2s_ids() -> None:
    vocabulary = make_vocabulary(151_936)
    assert vocabulary.tokens[151_643 : 151_643 + len(CONTROL_TOKENS)] == list(CONTROL_TOKENS)
    assert vocabulary.tokens[-1] == "[PAD151935]"


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size must be one of tiny,"):
        write_gguf(tmp_path / "m.gguf", size="3b")
    with pytest.raises(ValueError, match="type must be one of F32,"):
        write_gguf(tmp_path / "m.gguf", tensor_type="Q9")


def test_a_vocabulary_below_its_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 278 tokens"):
        make_vocabulary(277)
