"""A sound file is read whole; every unsound one is refused with one error, at once."""

import mmap
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import models.gguf_values
from models.errors import ModelFileError
from models.gguf_file import GGUFFile, open_gguf

Kind = gguf.GGUFValueType
Type = gguf.GGMLQuantizationType

U64_MAX = (1 << 64) - 1
F32_ROW = bytes(32)


def string(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IIQ", Kind.ARRAY, kind, count) + items


def refused(path: Path, problem: str) -> ModelFileError:
    """Opens the file, which must fail with this problem."""
    with pytest.raises(ModelFileError, match=problem) as caught:
        open_gguf(path)
    assert str(path) in str(caught.value)
    return caught.value


# ---- sound files


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


# ---- broken heads and metadata


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ({"magic": b"GGML"}, "not a GGUF file: it begins with b'GGML'"),
        ({"version": 1}, "GGUF version 1 is not supported, only 2 and 3"),
        ({"version": 4}, "GGUF version 4 is not supported"),
        ({"version": 3 << 24}, "big-endian GGUF files are not supported"),
        ({"num_keys": 4_097}, "4,097 metadata keys, limit 4,096"),
        ({"num_keys": U64_MAX}, "metadata keys, limit 4,096"),
        ({"num_tensors": 65_537}, "65,537 tensors, limit 65,536"),
        ({"num_tensors": U64_MAX}, "tensors, limit 65,536"),
        ({"num_tensors": 65_536}, "file is .* bytes short"),
        ({"num_keys": 4_096}, "file is .* bytes short"),
    ],
)
def test_a_broken_head_is_refused(small_file, tmp_path, head, problem):
    for name, wrong in head.items():
        setattr(small_file, name, wrong)
    refused(small_file.write(tmp_path / "m.gguf"), problem)


@pytest.mark.parametrize(
    ("key", "typed", "problem"),
    [
        (b"k", array(Kind.UINT8, 1 << 40), "array has 1,099,511,627,776 items, limit 2,000,000"),
        (b"k", array(Kind.UINT8, U64_MAX), "items, limit 2,000,000"),
        (b"k", array(Kind.UINT8, 2_000_000), "file is 1,999,.* bytes short"),
        (b"k", array(Kind.STRING, 2_000_000), "file is 15,999,.* bytes short"),
        (b"k", array(Kind.STRING, 2_000_001, bytes(8)), "items, limit 2,000,000"),
        (b"k", struct.pack("<IQ", Kind.STRING, 1 << 40), "has 1,099,511,627,776 bytes, limit"),
        (b"k", struct.pack("<IQ", Kind.STRING, 1 << 20), "file is .* bytes short"),
        (b"k", struct.pack("<I", Kind.STRING) + string(b"\xff"), "a string is not valid UTF-8"),
        (b"k", array(Kind.STRING, 2, string(b"a") + string(b"\xc3")), "string 1 of 2 is not valid"),
        (b"k", array(Kind.STRING, 9, struct.pack("<Q", 1 << 40) * 9), "string 0 of 9 has"),
        (b"k", array(Kind.STRING, 9, string(b"a" * 999) * 8 + bytes([255] * 7)), "string 8 of 9"),
        (b"k", array(Kind.ARRAY, 1, array(Kind.UINT8, 0)[4:]), "arrays of arrays are not"),
        (b"k", array(Kind.ARRAY, 1) * 5_000, "arrays of arrays are not supported"),
        (b"k", array(13, 1), "array item type 13 is unknown"),
        (b"k", struct.pack("<I", 13), "value type 13 is unknown"),
        (b"k", struct.pack("<IB", Kind.BOOL, 2), "a bool is neither 0 nor 1"),
        (b"k", array(Kind.BOOL, 2, b"\x01\x07"), "a bool is neither 0 nor 1"),
        (b"", struct.pack("<IB", Kind.BOOL, 1), "its name is empty"),
        (b"\xff", struct.pack("<IB", Kind.BOOL, 1), "its name is not valid UTF-8"),
        (b"k" * 65_536, struct.pack("<IB", Kind.BOOL, 1), "65,536 bytes, limit 65,535"),
        (b"qwen2.rope.freq_base", struct.pack("<IB", Kind.BOOL, 1), "appears twice"),
    ],
)
def test_a_broken_key_is_refused(small_file, tmp_path, key, typed, problem):
    small_file.raw_key(key, typed)
    error = refused(small_file.write(tmp_path / "m.gguf"), problem)
    assert error.subject in ("key 'k'", "key 5 of 6", "key 'qwen2.rope.freq_base'")
    assert error.offset is not None and error.offset >= 24


def test_many_empty_strings_are_read(small_file, tmp_path):
    small_file.raw_key("k", array(Kind.STRING, 1_000_000, bytes(8_000_000)))
    assert open_gguf(small_file.write(tmp_path / "m.gguf")).metadata["k"] == ("",) * 1_000_000


def test_a_header_beyond_its_limit_is_refused(small_file, tmp_path, monkeypatch):
    monkeypatch.setattr(models.gguf_values, "MAX_HEADER_BYTES", 200)
    refused(small_file.write(tmp_path / "m.gguf"), "passes the header's limit of 200 bytes")


def test_a_long_key_is_cut_in_the_message(small_file, tmp_path):
    small_file.raw_key(b"\x1b" * 60_000, struct.pack("<I", 99))
    error = refused(small_file.write(tmp_path / "m.gguf"), "value type 99")
    assert len(str(error)) < 1_000 and "\x1b" not in str(error)


@pytest.mark.parametrize("alignment", [0, 3, 1 << 17, 1 << 31, True, "32", -32, [32]])
def test_a_bad_alignment_is_refused(small_file, tmp_path, alignment):
    kind = struct.pack("<IQ", Kind.UINT64, alignment) if alignment == 1 << 31 else None
    if kind:
        small_file.raw_key("general.alignment", kind)
    else:
        small_file.key("general.alignment", alignment)
    error = refused(small_file.write(tmp_path / "m.gguf"), "must be a(n integer| power of two)")
    assert error.subject == "key 'general.alignment'"


def test_a_file_without_architecture_is_refused(gguf_bytes, tmp_path):
    refused(gguf_bytes().key("a", 1).write(tmp_path / "m.gguf"), "general.architecture.*is missing")


# ---- broken tensors


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        ({"dims": (8, 0)}, "has an empty dimension"),
        ({"dims": (8, 1, 1, 1, 1)}, "has 5 dimensions"),
        ({"dims": (8,), "num_dims": 0}, "has 0 dimensions"),
        ({"dims": (8,), "num_dims": 1 << 31}, "has 2,147,483,648 dimensions"),
        ({"dims": (1 << 32, 1 << 32)}, "file is .* bytes short"),
        ({"dims": (1 << 62, 4)}, "file is .* bytes short"),
        ({"dims": (U64_MAX, U64_MAX, U64_MAX, U64_MAX)}, "file is .* bytes short"),
        ({"dims": (16,)}, "file is 32 bytes short"),
        ({"dims": (8,), "offset": U64_MAX - 31}, "file is .* bytes short"),
        ({"dims": (8,), "offset": 1 << 40}, "file is .* bytes short"),
        ({"dims": (8,), "offset": U64_MAX}, "is not aligned to 32 bytes"),
        ({"dims": (8,), "offset": 8}, "is not aligned to 32 bytes"),
        ({"dims": (8,), "offset": 32}, "overlaps the tensor before it"),
        ({"dims": (8,), "offset": 0}, "overlaps the tensor before it"),
        ({"dims": (8,), "kind": 4}, r"type Q4_2 \(4\) was removed from GGUF"),
        ({"dims": (8,), "kind": 31}, r"type Q4_0_4_4 \(31\) was removed from GGUF"),
        ({"dims": (8,), "kind": 99}, "type 99 is unknown"),
        ({"dims": (8,), "kind": Type.Q4_K}, "rows of 8 are no multiple of Q4_K's block of 256"),
    ],
)
def test_a_broken_tensor_is_refused(small_file, tmp_path, tensor, problem):
    small_file.tensor("t", data=F32_ROW, **tensor)
    error = refused(small_file.write(tmp_path / "m.gguf"), problem)
    # of two tensors that overlap, either may be the one that is named
    assert error.subject in ("tensor 't'", "tensor 'token_embd.weight'", "tensor 'output.weight'")
    assert error.offset is not None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "its name is empty"),
        ("n" * 65, "has 65 bytes, limit 64"),
        ("n" * 100_000, "has 100,000 bytes, limit 64"),
        (b"\xff", "its name is not valid UTF-8"),
        ("output.weight", "appears twice"),
    ],
)
def test_a_bad_tensor_name_is_refused(small_file, tmp_path, name, problem):
    refused(small_file.tensor(name, (8,), F32_ROW).write(tmp_path / "m.gguf"), problem)


def test_a_cut_tensor_is_named_with_what_is_missing(small_file, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(small_file.build()[:-5])
    error = refused(path, "file is 5 bytes short")
    assert error.subject == "tensor 'output.weight'"


def test_truncation_anywhere_is_refused(small_file, tmp_path):
    whole = small_file.build()
    path = tmp_path / "m.gguf"
    for length in random.Random(0).choices(range(len(whole)), k=200):
        path.write_bytes(whole[:length])
        refused(path, "file is .* bytes short")


@pytest.mark.model
def test_truncation_of_the_real_header_is_refused(model_file, tmp_path):
    with model_file.open("rb") as file:
        header = file.read(6_000_000)
    path = tmp_path / "m.gguf"
    for length in random.Random(0).choices(range(len(header)), k=10):
        path.write_bytes(header[:length])
        refused(path, "file is .* bytes short")


# ---- paths and shards


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
def shards(gguf_bytes):
    """Three shards by their number, as llama-gguf-split writes them: no tensor in the first."""

    def shard(number: int, *names: str):
        builder = gguf_bytes()
        if number == 0:
            builder.key("general.architecture", "qwen2")
        u16 = struct.Struct("<IH").pack
        builder.raw_key("split.no", u16(Kind.UINT16, number))
        builder.raw_key("split.count", u16(Kind.UINT16, 3)).key("split.tensors.count", 3)
        for name in names:
            builder.tensor(name, (8,), bytes([number]) * 32)
        return builder

    return [shard(0), shard(1, "a", "b"), shard(2, "c")]


def write_shards(shards: list, folder: Path) -> list[Path]:
    names = [f"m-{index:05}-of-00003.gguf" for index in range(1, len(shards) + 1)]
    return [shard.write(folder / name) for shard, name in zip(shards, names, strict=True)]


@pytest.mark.parametrize("given_shard", [0, 1, 2])
def test_any_shard_stands_for_all(shards, tmp_path, given_shard):
    paths = write_shards(shards, tmp_path)
    file = open_gguf(paths[given_shard])
    assert file.metadata["general.architecture"] == "qwen2"
    assert {name: int(t.data[0, 0]) for name, t in file.tensors.items()} == {"a": 1, "b": 1, "c": 2}
    assert file.num_bytes == sum(path.stat().st_size for path in paths)


def test_missing_shards_are_named(shards, tmp_path):
    paths = write_shards(shards, tmp_path)
    paths[1].unlink()
    refused(paths[0], "1 of 3 shards are missing: m-00002-of-00003.gguf")


@pytest.mark.parametrize("name", ["m-00000-of-00003", "m-00004-of-00003", "m-00001-of-09999"])
def test_impossible_shard_names_are_refused(small_file, tmp_path, name):
    refused(small_file.write(tmp_path / f"{name}.gguf"), "its name says shard")


def test_a_shard_under_another_name_is_refused(shards, tmp_path):
    refused(shards[0].write(tmp_path / "m.gguf"), "says 3 shards, the file's name says 1")


def test_swapped_shards_are_refused(shards, tmp_path):
    paths = write_shards([shards[0], shards[2], shards[1]], tmp_path)
    refused_as = "must be 1, as the file's name says"
    with pytest.raises(ModelFileError, match=refused_as):
        open_gguf(paths[0])


def test_a_tensor_in_two_shards_is_refused(shards, tmp_path):
    shards[2].tensor("a", (8,), F32_ROW)
    paths = write_shards(shards, tmp_path)
    with pytest.raises(ModelFileError, match="tensor 'a': is in two shards"):
        open_gguf(paths[0])


def test_a_shard_with_a_tensor_too_many_is_refused(shards, tmp_path):
    shards[2].tensor("d", (8,), F32_ROW)
    refused(write_shards(shards, tmp_path)[0], "the shards hold 4 tensors")


def test_shards_whose_metadata_does_not_say_so_are_refused(small_file, tmp_path):
    paths = write_shards([small_file] * 3, tmp_path)
    refused(paths[0], "key 'split.count': is missing")


@pytest.mark.parametrize("count", [0, 1])
def test_a_merged_file_is_whole(small_file, tmp_path, count):
    small_file.key("split.count", count)
    assert len(open_gguf(small_file.write(tmp_path / "m-00001-of-00001.gguf")).tensors) == 2


# ---- getters


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


# ---- anything at all


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
