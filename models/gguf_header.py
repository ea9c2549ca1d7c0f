"""Reads and checks the header of one GGUF file: its metadata and where its tensors lie.

The layout, all little-endian (GGUF specification v3; v2 is the same without big-endian files):

    "GGUF"  version u32  n_tensors u64  n_kv u64
    n_kv      x  key string, type u32, value
    n_tensors x  name string, n_dims u32, dims u64 x n_dims (innermost first), type u32, offset u64
    padding to general.alignment, then the tensors' bytes at their offsets from here
"""

import math
import mmap
from dataclasses import dataclass, replace
from pathlib import Path

import gguf

from models.gguf_values import Cursor, MetadataValue, shown

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# The least a file, a key and a tensor description can take: an empty string's length, a type and
# one byte; a length, a count, one dim, a type and an offset.
MIN_FILE_BYTES = 4 + 4 + 8 + 8
MIN_KEY_BYTES = 8 + 4 + 1
MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8

MAX_KEYS = 4_096
MAX_TENSORS = 65_536
MAX_KEY_LENGTH = 65_535
MAX_NAME_LENGTH = 64
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 16
DEFAULT_ALIGNMENT = 32

# Types that existed once: a file that holds them is old, not broken, and its message says so.
REMOVED_TYPES = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: `shape` is row-major, `offset` counts from the file's beginning."""

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    offset: int
    rows: int
    bytes_per_row: int

    @property
    def end(self) -> int:
        return self.offset + self.rows * self.bytes_per_row


@dataclass(frozen=True)
class Header:
    """All that precedes the tensors' bytes; entries in the order of their offsets."""

    metadata: dict[str, MetadataValue]
    entries: tuple[TensorEntry, ...]


def read_header(buffer: mmap.mmap | bytes, path: Path) -> Header:
    """Reads the header of a mapped file and checks it against the file's size.

    Raises:
        ModelFileError: for whatever breaks the format or the limits above; the only exception.
    """
    cursor = Cursor(buffer, path)
    num_tensors, num_keys = _read_head(cursor)
    metadata = _read_metadata(cursor, num_keys)
    alignment = _alignment(cursor, metadata)
    entries = _read_entries(cursor, num_tensors)
    data_start = -(-cursor.position // alignment) * alignment
    return Header(metadata, _placed(cursor, entries, data_start, alignment))


def _read_head(cursor: Cursor) -> tuple[int, int]:
    cursor.require(MIN_FILE_BYTES, "the GGUF head")
    magic = cursor.buffer[: len(MAGIC)]
    if magic != MAGIC:
        raise cursor.error(f"not a GGUF file: it begins with {magic!r}")
    cursor.position = len(MAGIC)
    version = cursor.u32("the version")
    if version not in VERSIONS:
        # Versions are small, so a big-endian file shows one in the upper bytes.
        if version & 0xFFFF == 0:
            raise cursor.error("big-endian GGUF files are not supported", at=4)
        raise cursor.error(f"GGUF version {version} is not supported, only 2 and 3", at=4)
    num_tensors, num_keys = cursor.u64("the tensor count"), cursor.u64("the key count")
    if num_tensors > MAX_TENSORS:
        raise cursor.error(f"{num_tensors:,} tensors, limit {MAX_TENSORS:,}", at=8)
    if num_keys > MAX_KEYS:
        raise cursor.error(f"{num_keys:,} metadata keys, limit {MAX_KEYS:,}", at=16)
    least = num_keys * MIN_KEY_BYTES + num_tensors * MIN_TENSOR_BYTES
    cursor.require(least, f"a header of {num_keys:,} keys and {num_tensors:,} tensors")
    return num_tensors, num_keys


def _read_metadata(cursor: Cursor, num_keys: int) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for index in range(num_keys):
        cursor.subject = f"key {index} of {num_keys}"
        at = cursor.position
        key = cursor.string(MAX_KEY_LENGTH, "its name")
        if not key:
            raise cursor.error("its name is empty", at=at)
        cursor.subject = f"key {shown(key)}"
        if key in metadata:
            raise cursor.error("appears twice", at=at)
        metadata[key] = cursor.value()
    return metadata


def _alignment(cursor: Cursor, metadata: dict[str, MetadataValue]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    cursor.subject = "key 'general.alignment'"
    # type() and not isinstance: a bool is an int to the latter
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT:
        raise cursor.error(
            f"must be an integer from 1 to {MAX_ALIGNMENT:,}, got {shown(alignment)}"
        )
    if alignment & (alignment - 1):
        raise cursor.error(f"must be a power of two, got {alignment}")
    return alignment


def _read_entries(cursor: Cursor, num_tensors: int) -> list[TensorEntry]:
    """The descriptions as they stand in the file: offsets count from the data's start."""
    entries: dict[str, TensorEntry] = {}
    for index in range(num_tensors):
        cursor.subject = f"tensor {index} of {num_tensors}"
        at = cursor.position
        name = cursor.string(MAX_NAME_LENGTH, "its name")
        if not name:
            raise cursor.error("its name is empty", at=at)
        cursor.subject = f"tensor {shown(name)}"
        if name in entries:
            raise cursor.error("appears twice", at=at)
        entries[name] = _read_entry(cursor, name)
    return list(entries.values())


def _read_entry(cursor: Cursor, name: str) -> TensorEntry:
    at = cursor.position
    num_dims = cursor.u32("its number of dimensions")
    if not 1 <= num_dims <= MAX_DIMS:
        raise cursor.error(f"has {num_dims:,} dimensions, supported are 1 to {MAX_DIMS}", at=at)
    shape = tuple(cursor.u64("its shape") for _ in range(num_dims))[::-1]
    if min(shape) < 1:
        raise cursor.error(f"has an empty dimension, shape {shape}", at=at)
    at = cursor.position
    number = cursor.u32("its type")
    if number in REMOVED_TYPES:
        raise cursor.error(f"type {REMOVED_TYPES[number]} ({number}) was removed from GGUF", at=at)
    if number not in gguf.GGMLQuantizationType:
        raise cursor.error(f"type {number} is unknown", at=at)
    kind = gguf.GGMLQuantizationType(number)
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if shape[-1] % block_size:
        problem = f"rows of {shape[-1]:,} are no multiple of {kind.name}'s block of {block_size}"
        raise cursor.error(problem, at=at)
    offset = cursor.u64("its offset")
    bytes_per_row = shape[-1] // block_size * block_bytes
    return TensorEntry(name, shape, kind, offset, math.prod(shape[:-1]), bytes_per_row)


def _placed(
    cursor: Cursor, relative: list[TensorEntry], data_start: int, alignment: int
) -> tuple[TensorEntry, ...]:
    """The entries by offset from the file's beginning: aligned, disjoint and inside the file."""
    size = len(cursor.buffer)
    entries = sorted(
        (replace(entry, offset=data_start + entry.offset) for entry in relative),
        key=lambda entry: entry.offset,
    )
    short = max((entry.end for entry in entries), default=0) - size
    previous_end = data_start
    for entry in entries:
        cursor.subject = f"tensor {shown(entry.name)}"
        if (entry.offset - data_start) % alignment:
            raise cursor.error(f"is not aligned to {alignment} bytes", at=entry.offset)
        if entry.offset < previous_end:
            raise cursor.error("overlaps the tensor before it", at=entry.offset)
        if entry.end > size:
            problem = f"ends at byte {entry.end:,}, outside the file: file is {short:,} bytes short"
            raise cursor.error(problem, at=entry.offset)
        previous_end = entry.end
    return tuple(entries)
