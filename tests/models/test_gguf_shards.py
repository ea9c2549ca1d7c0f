"""Any shard stands for all, and all must fit together."""

import struct
from pathlib import Path

import gguf
import pytest

from models.errors import ModelFileError
from models.gguf_file import open_gguf
from tests.models.gguf_bytes import refused

Kind = gguf.GGUFValueType
F32_ROW = bytes(32)


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
