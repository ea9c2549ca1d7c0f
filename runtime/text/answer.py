"""The text of one answer as its tokens come: decoded, and ended at a stop string."""

from dataclasses import dataclass

from runtime.text.detokenizer import IncrementalDetokenizer
from runtime.text.stop_strings import StopMatcher
from runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class AnswerPiece:
    """Text that may be shown now; `stopped` is the stop string that ended the answer."""

    text: str
    stopped: str | None = None


class AnswerText:
    """Tokens in, text out. Once stopped, nothing more comes.

    Args:
        stops: strings that end the answer.
        include_stop: show the stop string too.
        skip_special: leave control tokens out.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stops: tuple[str, ...] = (),
        include_stop: bool = False,
        skip_special: bool = True,
    ):
        self._detokenizer = IncrementalDetokenizer(tokenizer, skip_special=skip_special)
        self._matcher = StopMatcher(stops, include=include_stop) if stops else None

    def push(self, token_ids: list[int]) -> AnswerPiece:
        """The text that these tokens add."""
        return self._match(self._detokenizer.push(token_ids))

    def flush(self) -> AnswerPiece:
        """What was held back, the answer having ended without a stop string."""
        piece = self._match(self._detokenizer.flush())
        if piece.stopped is not None or self._matcher is None:
            return piece
        return AnswerPiece(piece.text + self._matcher.flush().text)

    def _match(self, text: str) -> AnswerPiece:
        if self._matcher is None:
            return AnswerPiece(text)
        result = self._matcher.push(text)
        return AnswerPiece(result.text, result.stopped)
