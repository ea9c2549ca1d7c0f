"""The child that compiles grammars before their requests are admitted.

A grammar may be built to take long or much memory; the parent (worker_process.py) kills the child
when the deadline passes. The vocabulary here is the 256 bytes: what can fail does not depend on the
model's, and the child stays small.
"""

import resource
from pathlib import Path
from typing import Literal

import msgspec
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from runtime.errors import RequestError
from runtime.grammar import check_matcher, start_matcher
from runtime.structured_outputs import StructuredOutputs
from runtime.text.worker_child import run

MEMORY_LIMIT = 256 << 20  # bytes of address space, above those of the interpreter
CPU_LIMIT = 3  # seconds a request
# Some grammars fail only when they are used; so many bytes of an answer are tried.
NUM_TRIED_BYTES = 16
END_ID = 256


class GrammarReply(msgspec.Struct, frozen=True):
    """Whether a form of answer can be served; the other fields are RequestError's."""

    outcome: Literal["ready", "accepted", "refused"]
    message: str = ""
    param: str | None = None
    code: str = ""


class ByteVocabulary:
    """The 256 bytes and an end, as llguidance wants a tokenizer."""

    bos_token_id = None
    eos_token_id = END_ID
    special_token_ids = (END_ID,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        """A text as tokens."""
        return list(text)


def answer(message: bytes, tokenizer: LLTokenizer) -> bytes:
    """The reply to a form of answer, both in msgpack."""
    try:
        _try(msgspec.msgpack.decode(message, type=StructuredOutputs), tokenizer)
        reply = GrammarReply("accepted")
    except RequestError as error:
        reply = GrammarReply("refused", str(error), error.param, error.code)
    return msgspec.msgpack.encode(reply)


def byte_tokenizer() -> LLTokenizer:
    """The smallest vocabulary that can write anything."""
    return LLTokenizer(TokenizerWrapper(ByteVocabulary()), slices=[])


def _try(wanted: StructuredOutputs, tokenizer: LLTokenizer) -> None:
    matcher = start_matcher(wanted, tokenizer)
    for _ in range(NUM_TRIED_BYTES):
        allowed = _first_byte(matcher)
        check_matcher(matcher, wanted)
        if allowed is None:
            return
        matcher.consume_token(allowed)
        check_matcher(matcher, wanted)


def _first_byte(matcher: LLMatcher) -> int | None:
    """The lowest byte that may come next; None where only the end may."""
    mask = int.from_bytes(matcher.compute_bitmask(), "little") & (1 << END_ID) - 1
    return (mask & -mask).bit_length() - 1 if mask else None


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    tokenizer = byte_tokenizer()
    run(
        lambda message: answer(message, tokenizer),
        ready=msgspec.msgpack.encode(GrammarReply("ready")),
        max_bytes=_address_space() + MEMORY_LIMIT,
        cpu_seconds=CPU_LIMIT,
    )
