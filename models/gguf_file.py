"""A GGUF model file, checked and mapped: its metadata and its tensors' bytes, all shards as one."""

import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from models.errors import ModelFileError
from models.gguf_header import read_header
from models.gguf_values import MetadataValue, shown

SHARD_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
MAX_SHARDS = 1_024


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the file holds it: blocks of its type, mapped and not yet read.

    `shape` is row-major, outermost first: the reverse of GGUF's own order. `data` is read-only
    uint8 `[rows, bytes_per_row]`, where rows is the product of all dimensions but the last.
    """

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    data: np.ndarray

    @property
    def num_bytes(self) -> int:
        return self.data.nbytes


@dataclass(frozen=True)
class GGUFFile:
    """A file, or all shards of one: `path` is the one that was asked for, `num_bytes` their sum.

    The getters return None where the key is absent; the `require_` ones raise. Both raise
    ModelFileError, with the key's name, for a value of another type or out of range.
    """

    path: Path
    metadata: dict[str, MetadataValue]
    tensors: dict[str, TensorInfo]
    num_bytes: int

    def get_int(self, key: str, low: int, high: int) -> int | None:
        value = self.metadata.get(key)
        if value is None:
            return None
        # a bool is an int to isinstance
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            expected = f"must be an integer from {low:,} to {high:,}"
            raise self.error(key, f"{expected}, got {shown(value)}")
        return value

    def get_float(self, key: str, low: float, high: float) -> float | None:
        value = self.metadata.get(key)
        if value is None:
            return None
        number = float("nan") if not isinstance(value, int | float) else float(value)
        # a NaN fails every comparison
        if isinstance(value, bool) or not low <= number <= high:
            expected = f"must be a number from {low:g} to {high:g}"
            raise self.error(key, f"{expected}, got {shown(value)}")
        return number

    def get_bool(self, key: str) -> bool | None:
        value = self.metadata.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self.error(key, f"must be a bool, got {shown(value)}")

    def get_str(self, key: str) -> str | None:
        value = self.metadata.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self.error(key, f"must be a string, got {shown(value)}")

    def get_array[Item: (str, int, float)](
        self, key: str, item: type[Item]
    ) -> tuple[Item, ...] | None:
        value = self.metadata.get(key)
        if value is None:
            return None
        # the format stores one item type per array, so the first stands for all
        if not isinstance(value, tuple) or (value and type(value[0]) is not item):
            raise self.error(key, f"must be an array of {item.__name__}, got {shown(value)}")
        return tuple(entry for entry in value if isinstance(entry, item))

    def require_int(self, key: str, low: int, high: int) -> int:
        return self._present(key, self.get_int(key, low, high))

    def require_float(self, key: str, low: float, high: float) -> float:
        return self._present(key, self.get_float(key, low, high))

    def require_str(self, key: str) -> str:
        return self._present(key, self.get_str(key))

    def require_array[Item: (str, int, float)](
        self, key: str, item: type[Item]
    ) -> tuple[Item, ...]:
        return self._present(key, self.get_array(key, item))

    def require_tensor(self, name: str) -> TensorInfo:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ModelFileError("is missing", path=self.path, subject=f"tensor {name!r}")
        return tensor

    def error(self, key: str, problem: str) -> ModelFileError:
        """The error for a key that contradicts what the caller knows; to be raised by it."""
        return ModelFileError(problem, path=self.path, subject=f"key {shown(key)}")

    def _present[Value](self, key: str, value: Value | None) -> Value:
        if value is None:
            raise self.error(key, "is missing")
        return value


def open_gguf(path: str | Path) -> GGUFFile:
    """Maps and checks a GGUF file; a shard `...-00001-of-0000N.gguf` stands for all N.

    Only the header is read, so this costs as much as the vocabulary is long. The metadata is the
    first shard's, as the tools that split files write it.

    Raises:
        ModelFileError: for whatever is missing, broken or beyond a limit; the only exception.
    """
    path = Path(path)
    paths = _shard_paths(path)
    shards = [_open_one(shard) for shard in paths]
    for index, shard in enumerate(shards):
        _check_split(shard, index, len(shards))
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        for name, tensor in shard.tensors.items():
            if name in tensors:
                subject = f"tensor {name!r}"
                raise ModelFileError("is in two shards", path=shard.path, subject=subject)
            tensors[name] = tensor
    file = GGUFFile(path, shards[0].metadata, tensors, sum(shard.num_bytes for shard in shards))
    if len(shards) > 1:
        num_tensors = len(tensors)
        for shard in shards:
            if shard.require_int("split.tensors.count", 0, 1 << 31) != num_tensors:
                raise shard.error("split.tensors.count", f"the shards hold {num_tensors} tensors")
    file.require_str("general.architecture")
    return file


def _shard_paths(path: Path) -> list[Path]:
    name = SHARD_NAME.fullmatch(path.name)
    if name is None:
        return [path]
    number, count = int(name["number"]), int(name["count"])
    if not 1 <= number <= count <= MAX_SHARDS:
        problem = f"its name says shard {number} of {count}, supported are 1 to {MAX_SHARDS}"
        raise ModelFileError(problem, path=path)
    paths = [
        path.with_name(f"{name['stem']}-{index:05}-of-{count:05}.gguf")
        for index in range(1, count + 1)
    ]
    missing = [shard.name for shard in paths if not shard.is_file()]
    if missing:
        named = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise ModelFileError(f"{len(missing)} of {count} shards are missing: {named}", path=path)
    return paths


def _check_split(shard: GGUFFile, index: int, count: int) -> None:
    """Compares what the metadata says of the split with what the file names say."""
    if count > 1:
        said_count = shard.require_int("split.count", 0, 0xFFFF)
        if shard.require_int("split.no", 0, 0xFFFF) != index:
            raise shard.error("split.no", f"must be {index}, as the file's name says")
    else:
        # 0 is what merging shards leaves behind
        said_count = shard.get_int("split.count", 0, 0xFFFF) or 1
    if said_count != count:
        problem = f"says {said_count} shards, the file's name says {count}"
        raise shard.error("split.count", problem)


def _open_one(path: Path) -> GGUFFile:
    """One file as it is, whether shard or whole."""
    if not path.is_file():
        raise ModelFileError("is not a file" if path.exists() else "no such file", path=path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            # an empty file cannot be mapped
            buffer = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error.strerror}", path=path) from error
    header = read_header(buffer, path)
    tensors = {}
    for entry in header.entries:
        data = np.frombuffer(buffer, np.uint8, entry.rows * entry.bytes_per_row, entry.offset)
        blocks = data.reshape(entry.rows, entry.bytes_per_row)
        tensors[entry.name] = TensorInfo(entry.name, entry.shape, entry.type, blocks)
    return GGUFFile(path, header.metadata, tensors, size)
