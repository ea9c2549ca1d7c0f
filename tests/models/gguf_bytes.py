"""Builds small GGUF files, sound or broken, byte by byte."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import pytest

from models.errors import ModelFileError
from models.gguf_file import open_gguf

Kind = gguf.GGUFValueType
Type = gguf.GGMLQuantizationType

type Plain = str | bool | int | float | list[str] | list[int] | list[float]

ITEM = {
    str: (Kind.STRING, lambda v: string(v)),
    bool: (Kind.BOOL, lambda v: struct.pack("<B", v)),
    int: (Kind.INT32, lambda v: struct.pack("<i", v)),
    float: (Kind.FLOAT32, lambda v: struct.pack("<f", v)),
}


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    """An array value with its types, whose `count` need not be true."""
    return struct.pack("<IIQ", Kind.ARRAY, kind, count) + items


def value(plain: Plain) -> bytes:
    """A value with its type before it."""
    if isinstance(plain, list):
        kind, encode = ITEM[type(plain[0]) if plain else str]
        return array(kind, len(plain), b"".join(encode(item) for item in plain))
    kind, encode = ITEM[type(plain)]
    return struct.pack("<I", kind) + encode(plain)


@dataclass
class GGUFBytes:
    """A GGUF file in the making; `None` for a count or offset means the true one."""

    magic: bytes = b"GGUF"
    version: int = 3
    num_keys: int | None = None
    num_tensors: int | None = None
    alignment: int = 32
    keys: list[bytes] = field(default_factory=list)
    infos: list[bytes] = field(default_factory=list)
    data: bytes = b""

    def key(self, name: str | bytes, plain: Plain) -> "GGUFBytes":
        return self.raw_key(name, value(plain))

    def raw_key(self, name: str | bytes, typed: bytes) -> "GGUFBytes":
        self.keys.append(string(name) + typed)
        return self

    def tensor(
        self,
        name: str | bytes,
        dims: tuple[int, ...],
        data: bytes,
        *,
        kind: int = Type.F32,
        offset: int | None = None,
        num_dims: int | None = None,
    ) -> "GGUFBytes":
        """Adds a tensor; `dims` in the file's order, innermost first."""
        self.data += bytes(-len(self.data) % self.alignment)
        at = len(self.data) if offset is None else offset
        count = len(dims) if num_dims is None else num_dims
        layout = f"<I{len(dims)}QIQ"
        self.infos.append(string(name) + struct.pack(layout, count, *dims, kind, at))
        self.data += data
        return self

    def header(self) -> bytes:
        num_tensors = len(self.infos) if self.num_tensors is None else self.num_tensors
        num_keys = len(self.keys) if self.num_keys is None else self.num_keys
        head = self.magic + struct.pack("<IQQ", self.version, num_tensors, num_keys)
        return head + b"".join(self.keys) + b"".join(self.infos)

    def build(self) -> bytes:
        header = self.header()
        return header + bytes(-len(header) % self.alignment) + self.data

    def write(self, path: Path) -> Path:
        path.write_bytes(self.build())
        return path


def refused(path: Path, problem: str) -> ModelFileError:
    """Opens the file, which must fail with this problem."""
    with pytest.raises(ModelFileError, match=problem) as caught:
        open_gguf(path)
    assert str(path) in str(caught.value)
    return caught.value
