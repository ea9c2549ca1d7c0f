"""Guides: which tokens an answer of a wanted form may go on with, by llguidance."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from runtime.grammar import failure, start_matcher
from runtime.structured_outputs import StructuredOutputs
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


class GuideMaker:
    """Makes the guides of one tokenizer; its methods may be called from several threads.

    To build one takes most of a second for a vocabulary of 150,000 tokens; a guide takes some
    milliseconds when its grammar is new, and microseconds when it is among the last `MAX_CACHED`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokens = _vocabulary_data(tokenizer)
        self._num_words = -(-tokenizer.vocab_size // 32)
        self._stop_ids = tokenizer.stop_ids
        self._lock = threading.Lock()
        self._compiled: OrderedDict[StructuredOutputs, LLMatcher] = OrderedDict()

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
        matcher = self._start(wanted).deep_copy()
        return TokenGuide(matcher, num_words=self._num_words, stop_ids=self._stop_ids)

    def _start(self, wanted: StructuredOutputs) -> LLMatcher:
        with self._lock:
            if (found := self._compiled.get(wanted)) is not None:
                self._compiled.move_to_end(wanted)
                return found
        # outside of the lock: a grammar that takes long holds up nobody else's
        matcher = start_matcher(wanted, self._tokens)
        with self._lock:
            self._compiled[wanted] = matcher
            while len(self._compiled) > MAX_CACHED:
                self._compiled.popitem(last=False)
        return matcher


class _Vocabulary:
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


def _vocabulary_data(tokenizer: Tokenizer) -> LLTokenizer:
    return LLTokenizer(
        TokenizerWrapper(_Vocabulary(tokenizer)), eos_token=sorted(tokenizer.stop_ids)
    )
