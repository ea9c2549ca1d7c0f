"""Token ids to text while they are still arriving, without half characters."""

import codecs
from collections.abc import Sequence

from runtime.text.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """The text of one sequence, piece by piece.

    The pieces of all `push` calls and of `flush`, joined, are `Tokenizer.decode` of all the ids:
    an unfinished character is held until its bytes are complete or can no longer be.

    Args:
        skip_special: leave control tokens out.
        start: the ids begin a text; False where they continue one (see `Tokenizer.decode`).
    """

    def __init__(
        self, tokenizer: Tokenizer, skip_special: bool = True, *, start: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._strip_space = start and tokenizer.strips_leading_space
        # Its choice of what becomes one U+FFFD is that of bytes.decode, byte by byte.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Sequence[int]) -> str:
        """The text that `ids` complete; perhaps none.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        visible = self._tokenizer.visible(ids, self._skip_special)
        joined = b"".join(map(self._tokenizer.token_bytes, visible))
        if joined and self._strip_space:
            joined = joined.removeprefix(b" ")
            self._strip_space = False
        return self._decoder.decode(joined)

    def flush(self) -> str:
        """What an unfinished last character becomes; the sequence has ended."""
        return self._decoder.decode(b"", final=True)
