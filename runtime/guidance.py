"""Guides: which tokens an answer of a wanted form may go on with, by llguidance."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from runtime.errors import RequestError
from runtime.grammar import failure, start_matcher
from runtime.structured_outputs import PARAM, StructuredOutputs
from runtime.text.tokenizer import Tokenizer

MAX_CACHED = 128  # compiled grammars; a few megabytes at most each


class TokenGuide:
    """Follows one answer. A guide that fails allows the end of the answer alone.

    Attributes:
        is_finished: nothing can follow: the answer is complete, or the guide has failed.
        error: why it failed, in words for the caller; None otherwise.
    """

    def __init__(self, matcher: LLMatcher, *, num_words: int, stop_ids: frozenset[int]) -> None:
        """`num_words`: int32 words of the tokenizer's own mask."""
        self._matcher = matcher
        self._num_words = num_words
        self._stop_ids = stop_ids

    def fill(self, mask: np.ndarray) -> None:
        """Writes the allowed tokens, one bit each, little-endian.

        Args:
            mask: int32 [ceil(V / 32)], contiguous; longer than the tokenizer's vocabulary where
                the model's is padded, and zero there.
        """
        own = mask[: self._num_words]
        if not self._matcher.is_error():
            self._matcher.unsafe_compute_mask_ptr(own.ctypes.data, own.nbytes)
        if self._matcher.is_error():  # found while computing, too: the limits are those of a step
            mask[:] = 0
            for token_id in self._stop_ids:
                mask.view(np.uint32)[token_id // 32] |= np.uint32(1 << token_id % 32)
        mask[self._num_words :] = 0

    def accept(self, token_id: int) -> None:
        """The token was chosen; one that was not allowed is the guide's failure."""
        if not self.is_finished:
            self._matcher.consume_token(token_id)

    @property
    def is_finished(self) -> bool:
        """Whether nothing can follow."""
        return self._matcher.is_stopped()

    @property
    def error(self) -> str | None:
        """Why the guide failed."""
        if not self._matcher.is_error():
            return None
        return f"the grammar cannot be followed: {failure(self._matcher)}"


@dataclass(frozen=True)
class _Vocabulary:
    """What is known of a tokenizer; `tokens` is None where nothing ends an answer."""

    tokens: LLTokenizer | None
    num_words: int
    stop_ids: frozenset[int]


class GuideMaker:
    """Makes the guides of one tokenizer; its methods may be called from several threads.

    The vocabulary is prepared in a thread, for about a second if it has 150,000 tokens; the first
    guide waits for that. A guide takes some milliseconds when its grammar is new, and microseconds
    when it is among the last `MAX_CACHED`.

    Args:
        build: the tokenizer; called once, in the thread.
    """

    def __init__(self, build: Callable[[], Tokenizer]) -> None:
        self._lock = threading.Lock()
        self._compiled: OrderedDict[StructuredOutputs, LLMatcher] = OrderedDict()
        thread = ThreadPoolExecutor(1, thread_name_prefix="vocabulary")
        self._vocabulary = thread.submit(lambda: _read(build()))
        thread.shutdown(wait=False)

    def prepare(self, wanted: StructuredOutputs) -> None:
        """Compiles, so that `make` need not.

        Raises:
            RequestError: it cannot be compiled; code "invalid_schema" or "schema_too_complex".
        """
        self._start(wanted)

    def make(self, wanted: StructuredOutputs) -> TokenGuide:
        """A guide at the beginning of an answer.

        Raises:
            RequestError: as `prepare`.
        """
        vocabulary = self._vocabulary.result()
        return TokenGuide(
            self._start(wanted).deep_copy(),
            num_words=vocabulary.num_words,
            stop_ids=vocabulary.stop_ids,
        )

    def _start(self, wanted: StructuredOutputs) -> LLMatcher:
        with self._lock:
            if (found := self._compiled.get(wanted)) is not None:
                self._compiled.move_to_end(wanted)
                return found
        tokens = self._vocabulary.result().tokens
        if tokens is None:
            raise RequestError(f"{PARAM}: the model has no token that ends an answer", param=PARAM)
        # outside of the lock: a grammar that takes long holds up nobody else's
        matcher = start_matcher(wanted, tokens)
        with self._lock:
            self._compiled[wanted] = matcher
            while len(self._compiled) > MAX_CACHED:
                self._compiled.popitem(last=False)
        return matcher


class _Spelling:
    """A tokenizer as llguidance wants it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        numbers = range(tokenizer.vocab_size)
        self.tokens: Sequence[bytes] = [tokenizer.token_bytes(i) for i in numbers]
        self.special_token_ids = [i for i in numbers if tokenizer.is_control(i)]
        self.eos_token_id = min(tokenizer.stop_ids)
        self._tokenizer = tokenizer

    def __call__(self, utf8: bytes) -> list[int]:
        """How the model would write a text that the grammar leaves no choice about."""
        text = utf8.decode()
        if not self._tokenizer.strips_leading_space:
            return self._tokenizer.encode(text, parse_special=False)
        # The new line is a token of its own, and so is the space that comes before it.
        return self._tokenizer.encode("\n" + text, parse_special=False)[2:]


def _read(tokenizer: Tokenizer) -> _Vocabulary:
    stop_ids = tokenizer.stop_ids
    tokens = None
    if stop_ids:
        tokens = LLTokenizer(TokenizerWrapper(_Spelling(tokenizer)), eos_token=sorted(stop_ids))
    return _Vocabulary(tokens, -(-tokenizer.vocab_size // 32), stop_ids)
