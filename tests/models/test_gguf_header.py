"""Every unsound head, key and tensor is refused with one error, at once."""

import random
import struct

import gguf
import pytest

import models.gguf_values
from models.gguf_file import open_gguf
from tests.models.gguf_bytes import array, refused, string

Kind = gguf.GGUFValueType
Type = gguf.GGMLQuantizationType
U64_MAX = (1 << 64) - 1
F32_ROW = bytes(32)


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
