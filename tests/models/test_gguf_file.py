"""A sound file is read whole, any other is refused, at once."""

import mmap
import os
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import ModelFileError
from models.gguf_file import GGUFFile, open_gguf
from tests.models.gguf_bytes import array, refused, string

Kind = gguf.GGUFValueType
Type = gguf.GGMLQuantizationType
U64_MAX = (1 << 64) - 1
F32_ROW = bytes(32)


def test_metadata_and_tensors_are_read(small_file, tmp_path):
    file = open_gguf(small_file.write(tmp_path / "m.gguf"))
    assert file.metadata == {
        "general.architecture": "qwen2",
        "tokenizer.ggml.tokens": ("a", "é", "<|end|>"),
        "tokenizer.ggml.token_type": (1, 1, 3),
        "qwen2.rope.freq_base": 1e6,
        "tokenizer.ggml.add_bos_token": False,
    }
    embedding, output = file.tensors["token_embd.weight"], file.tensors["output.weight"]
    assert (embedding.shape, embedding.type) == ((4, 8), Type.F32)
    assert np.array_equal(embedding.data.view(np.float32), np.arange(32).reshape(4, 8))
    assert (output.shape, output.type) == ((2, 32), Type.Q8_0)
    assert output.data.shape == (2, 34) and output.num_bytes == 68
    assert output.data.tobytes() == bytes(range(68))
    assert file.num_bytes == (tmp_path / "m.gguf").stat().st_size


def test_tensors_are_views_that_cannot_be_written(small_file, tmp_path):
    data = open_gguf(small_file.write(tmp_path / "m.gguf")).tensors["output.weight"].data
    base = data
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert isinstance(base, memoryview) and isinstance(base.obj, mmap.mmap)
    assert not data.flags.writeable


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [1, 8, 64, 65_536])
def test_versions_and_alignments(gguf_bytes, tmp_path, version, alignment):
    builder = gguf_bytes(version=version, alignment=alignment)
    builder.key("general.architecture", "qwen2").key("general.alignment", alignment)
    builder.tensor("a", (8,), F32_ROW).tensor("b", (8,), bytes([1]) * 32)
    file = open_gguf(builder.write(tmp_path / "m.gguf"))
    assert bytes(file.tensors["b"].data[0]) == bytes([1]) * 32
    assert file.tensors["b"].shape == (8,) and file.tensors["b"].data.shape == (1, 32)


@pytest.mark.parametrize(
    ("kind", "payload", "expected"),
    [
        (Kind.UINT8, b"\xff", 255),
        (Kind.INT8, b"\xff", -1),
        (Kind.UINT16, b"\xff\xff", 65_535),
        (Kind.INT16, b"\xff\xff", -1),
        (Kind.UINT32, b"\xff" * 4, (1 << 32) - 1),
        (Kind.INT32, b"\xff" * 4, -1),
        (Kind.UINT64, b"\xff" * 8, U64_MAX),
        (Kind.INT64, b"\xff" * 8, -1),
        (Kind.FLOAT32, struct.pack("<f", 0.5), 0.5),
        (Kind.FLOAT64, struct.pack("<d", 0.1), 0.1),
        (Kind.BOOL, b"\x01", True),
        (Kind.STRING, string("ß".encode()), "ß"),
    ],
)
def test_every_value_type_is_read_alone_and_in_arrays(
    small_file, tmp_path, kind, payload, expected
):
    small_file.raw_key("one", struct.pack("<I", kind) + payload)
    small_file.raw_key("two", array(kind, 2, payload * 2)).raw_key("none", array(kind, 0))
    metadata = open_gguf(small_file.write(tmp_path / "m.gguf")).metadata
    assert metadata["one"] == expected and type(metadata["one"]) is type(expected)
    assert metadata["two"] == (expected, expected) and metadata["none"] == ()


def test_a_file_by_gguf_py_is_read(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen2")
    writer.add_block_count(2)
    writer.add_token_list(["x", "y"])
    weights = np.random.default_rng(0).standard_normal((3, 5, 64)).astype(np.float32)
    writer.add_tensor("w", weights)
    writer.add_tensor("q", gguf.quants.quantize(weights, Type.Q5_0), raw_dtype=Type.Q5_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_gguf(tmp_path / "m.gguf")
    assert file.require_int("qwen2.block_count", 1, 256) == 2
    assert file.tensors["w"].shape == (3, 5, 64) and file.tensors["w"].data.shape == (15, 256)
    assert np.array_equal(file.tensors["w"].data.view(np.float32).reshape(3, 5, 64), weights)
    assert file.tensors["q"].shape == (3, 5, 64) and file.tensors["q"].data.shape == (15, 44)


@pytest.mark.model
def test_the_real_vocabulary_is_read(model_file):
    file = open_gguf(model_file)
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 151_936
    assert len(file.metadata["tokenizer.ggml.merges"]) == 151_387
    assert len(file.tensors) == 291
    tensor = file.tensors["token_embd.weight"]
    assert (tensor.shape, tensor.type) == ((151_936, 896), Type.Q5_0)


def test_reading_does_not_import_jax():
    program = "import sys, models.gguf_file, models.config; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_what_is_no_readable_file_is_refused(tmp_path, monkeypatch):
    refused(tmp_path / "absent.gguf", "no such file")
    refused(tmp_path, "is not a file")
    (tmp_path / "empty.gguf").touch()
    refused(tmp_path / "empty.gguf", "file is 24 bytes short")
    (tmp_path / "m.gguf").write_bytes(bytes(24))

    def no_map(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    # by hand, for the superuser of a container may read everything
    monkeypatch.setattr("models.gguf_file.mmap.mmap", no_map)
    refused(tmp_path / "m.gguf", "cannot be read: Permission denied")


@pytest.fixture
def values() -> GGUFFile:
    metadata = {
        "int": 7,
        "float": 0.5,
        "nan": float("nan"),
        "bool": True,
        "str": "text",
        "strs": ("a", "b"),
        "ints": (1, 2),
        "bools": (True, False),
        "empty": (),
    }
    return GGUFFile(Path("m.gguf"), metadata, {}, 0)


def test_getters_return_the_value_or_none(values):
    assert values.get_int("int", 7, 7) == values.require_int("int", 0, 8) == 7
    assert values.get_float("float", 0.5, 0.5) == values.require_float("float", 0, 1) == 0.5
    assert values.get_float("int", 0, 10) == 7.0
    assert values.get_bool("bool") is True
    assert values.get_str("str") == values.require_str("str") == "text"
    assert values.get_array("strs", str) == values.require_array("strs", str) == ("a", "b")
    assert values.get_array("ints", int) == (1, 2) and values.get_array("empty", float) == ()
    for absent in (
        values.get_int("none", 0, 1),
        values.get_float("none", 0, 1),
        values.get_bool("none"),
        values.get_str("none"),
        values.get_array("none", str),
    ):
        assert absent is None


@pytest.mark.parametrize(
    ("get", "problem"),
    [
        (lambda f: f.get_int("int", 8, 9), "m.gguf: key 'int': must be an integer from 8 to 9"),
        (lambda f: f.get_int("bool", 0, 9), "got True"),
        (lambda f: f.get_int("float", 0, 9), "got 0.5"),
        (lambda f: f.get_int("ints", 0, 9), "got an array of 2"),
        (lambda f: f.get_float("float", 1, 2), "must be a number from 1 to 2, got 0.5"),
        (lambda f: f.get_float("nan", 0, 1), "got nan"),
        (lambda f: f.get_float("bool", 0, 1), "got True"),
        (lambda f: f.get_float("str", 0, 1), "got 'text'"),
        (lambda f: f.get_bool("int"), "must be a bool, got 7"),
        (lambda f: f.get_str("int"), "must be a string, got 7"),
        (lambda f: f.get_array("ints", str), "must be an array of str"),
        (lambda f: f.get_array("bools", int), "must be an array of int"),
        (lambda f: f.get_array("str", str), "must be an array of str, got 'text'"),
        (lambda f: f.require_int("none", 0, 1), "key 'none': is missing"),
        (lambda f: f.require_float("none", 0, 1), "key 'none': is missing"),
        (lambda f: f.require_str("none"), "key 'none': is missing"),
        (lambda f: f.require_array("none", int), "key 'none': is missing"),
        (lambda f: f.require_tensor("none"), "tensor 'none': is missing"),
    ],
)
def test_getters_refuse_what_is_wrong_or_absent(values, get, problem):
    with pytest.raises(ModelFileError, match=problem):
        get(values)


@settings(max_examples=300, deadline=1_000, suppress_health_check=list(HealthCheck))
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 511), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4
    )
)
def test_a_mutated_file_is_refused_or_lies_within_itself(small_file, tmp_path, changes):
    content = bytearray(small_file.build())
    for at, new in changes:
        at %= len(content)
        content[at : at + len(new)] = new[: len(content) - at]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    try:
        file = open_gguf(path)
    except ModelFileError:
        return
    whole = bytes(content)
    assert sum(tensor.num_bytes for tensor in file.tensors.values()) <= os.path.getsize(path)
    for tensor in file.tensors.values():
        block, block_bytes = gguf.GGML_QUANT_SIZES[tensor.type]
        assert tensor.data.shape[1] * block == tensor.shape[-1] * block_bytes
        assert tensor.data.tobytes() in whole
