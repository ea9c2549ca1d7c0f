"""Reads numbers, strings and arrays from a mapped GGUF file, never past its end.

Every number in the file is an attacker's until it has been compared with the file's size. All
arithmetic on sizes is Python's, which does not overflow; nothing is allocated before the bytes it
stands for are known to be in the file.
"""

import mmap
import struct
from pathlib import Path

import gguf
import numpy as np

from models.errors import ModelFileError

type MetadataValue = (
    str | int | float | bool | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]
)

MAX_STRING_LENGTH = 1 << 20
MAX_ARRAY_ITEMS = 2_000_000
# A vocabulary of 500,000 tokens with its merges takes about 30 MB. The cap bounds what many keys,
# each within its own limit, can make of the host's memory together.
MAX_HEADER_BYTES = 1 << 27

STRING, ARRAY, BOOL = gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.BOOL

# One letter serves struct and numpy alike. A bool is read as the byte it is and checked.
NUMBERS = {
    gguf.GGUFValueType.UINT8: "B",
    gguf.GGUFValueType.INT8: "b",
    gguf.GGUFValueType.UINT16: "H",
    gguf.GGUFValueType.INT16: "h",
    gguf.GGUFValueType.UINT32: "I",
    gguf.GGUFValueType.INT32: "i",
    gguf.GGUFValueType.UINT64: "Q",
    gguf.GGUFValueType.INT64: "q",
    gguf.GGUFValueType.FLOAT32: "f",
    gguf.GGUFValueType.FLOAT64: "d",
    gguf.GGUFValueType.BOOL: "B",
}


class Cursor:
    """A place in a mapped file; each read moves it on or raises ModelFileError and names `subject`.

    `subject` is the key or tensor that is being read; the caller sets it.
    """

    def __init__(self, buffer: mmap.mmap | bytes, path: Path) -> None:
        self.buffer = buffer
        self.path = path
        self.position = 0
        self.end = min(len(buffer), MAX_HEADER_BYTES)
        self.subject: str | None = None

    def error(self, problem: str, *, at: int | None = None) -> ModelFileError:
        offset = self.position if at is None else at
        return ModelFileError(problem, path=self.path, subject=self.subject, offset=offset)

    def require(self, num_bytes: int, what: str) -> None:
        """Refuses unless `num_bytes` more are in the file, and within the header's cap.

        Raises:
            ModelFileError: naming how many bytes are missing.
        """
        short = self.position + num_bytes - self.end
        if short <= 0:
            return
        if self.end < len(self.buffer):
            raise self.error(f"{what} passes the header's limit of {MAX_HEADER_BYTES:,} bytes")
        raise self.error(f"{what} ends outside the file: file is {short:,} bytes short")

    def u32(self, what: str) -> int:
        return self._unsigned(4, what)

    def u64(self, what: str) -> int:
        return self._unsigned(8, what)

    def string(self, max_length: int, what: str) -> str:
        """One length-prefixed UTF-8 string of at most `max_length` bytes."""
        at = self.position
        length = self.u64(f"the length of {what}")
        if length > max_length:
            raise self.error(f"{what} has {length:,} bytes, limit {max_length:,}", at=at)
        self.require(length, what)
        raw = self.buffer[self.position : self.position + length]
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not valid UTF-8") from error
        self.position += length
        return text

    def strings(self, count: int) -> tuple[str, ...]:
        """`count` strings. The loop runs once per token at every start, so it checks inline."""
        self.require(8 * count, f"an array of {count:,} strings")
        buffer, end, position = self.buffer, self.end, self.position
        read_length = struct.Struct("<Q").unpack_from
        texts: list[str] = []
        append = texts.append
        try:
            for _ in range(count):
                stop = position + 8 + read_length(buffer, position)[0]
                if stop > end or stop - position > 8 + MAX_STRING_LENGTH:
                    break
                append(buffer[position + 8 : stop].decode())
                position = stop
        except (struct.error, UnicodeDecodeError):
            pass  # the string at `position` is at fault, and is read again for its message
        self.position = position
        for index in range(len(texts), count):
            append(self.string(MAX_STRING_LENGTH, f"string {index:,} of {count:,}"))
        return tuple(texts)

    def numbers(self, kind: gguf.GGUFValueType, count: int) -> tuple[int, ...] | tuple[float, ...]:
        """`count` numbers or bools of one type."""
        dtype = np.dtype("<" + NUMBERS[kind])
        self.require(dtype.itemsize * count, f"an array of {count:,} {kind.name}")
        items = np.frombuffer(self.buffer, dtype, count, self.position)
        if kind == BOOL:
            if items.max(initial=0) > 1:
                raise self.error("a bool is neither 0 nor 1")
            items = items.astype(bool)
        self.position += dtype.itemsize * count
        return tuple(items.tolist())

    def _value_type(self, what: str) -> gguf.GGUFValueType:
        at = self.position
        number = self.u32(what)
        if number not in gguf.GGUFValueType:
            raise self.error(f"{what} {number} is unknown", at=at)
        return gguf.GGUFValueType(number)

    def value(self) -> MetadataValue:
        """A metadata value with its type before it; arrays hold no arrays."""
        kind = self._value_type("value type")
        if kind == STRING:
            return self.string(MAX_STRING_LENGTH, "a string")
        if kind != ARRAY:
            return self.numbers(kind, 1)[0]
        kind = self._value_type("array item type")
        if kind == ARRAY:
            raise self.error("arrays of arrays are not supported")
        at = self.position
        count = self.u64("the length of an array")
        if count > MAX_ARRAY_ITEMS:
            raise self.error(f"array has {count:,} items, limit {MAX_ARRAY_ITEMS:,}", at=at)
        return self.strings(count) if kind == STRING else self.numbers(kind, count)

    def _unsigned(self, size: int, what: str) -> int:
        self.require(size, what)
        stop = self.position + size
        value = int.from_bytes(self.buffer[self.position : stop], "little")
        self.position = stop
        return value


def shown(value: MetadataValue) -> str:
    """A value or name for a message: a string's beginning, escaped; of an array its length."""
    if isinstance(value, tuple):
        return f"an array of {len(value):,}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
