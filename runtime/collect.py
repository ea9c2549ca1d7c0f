"""Gathers the tokens of one answer into its text and its result."""

from runtime.outputs import CompletionOutput, Logprob
from runtime.request import TokenOutput
from runtime.text.answer import Answer, ScoredToken
from runtime.text.tokenizer import Tokenizer


class Collector:
    """One answer in the making.

    Args:
        answer: turns its tokens into text.
        with_logprobs: whether log-probabilities were asked for.
        tokenizer: for the texts of single tokens.

    Attributes:
        pieces: what each output has added to its text.
        prompt_logprobs: as in `RequestOutput`.
    """

    def __init__(self, answer: Answer, *, with_logprobs: bool, tokenizer: Tokenizer):
        self._answer = answer
        self._with_logprobs = with_logprobs
        self._tokenizer = tokenizer
        self.pieces: list[str] = []
        self._token_ids: list[int] = []
        self._scored: list[ScoredToken] = []
        self._stop_reason: str | int | None = None
        self._error: str | None = None
        self.prompt_logprobs: list[dict[int, Logprob] | None] | None = None

    @property
    def finished(self) -> bool:
        """Whether the answer has ended; the engine may not know yet (a stop string)."""
        return self._answer.finish_reason is not None

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that the prefix cache held."""
        return self._answer.num_cached_tokens

    def push(self, output: TokenOutput) -> None:
        """Takes the next token."""
        piece = self._answer.push([output])
        if output.token_id is not None:
            self._token_ids.append(output.token_id)
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = [
                None if score is None else self._entry(*score) for score in output.prompt_logprobs
            ]
        self._error = output.error
        self.pieces.append(piece.text)
        self._scored += piece.scored
        self._stop_reason = piece.stop_reason

    def output(self) -> CompletionOutput:
        """The answer so far."""
        chosen = [scored.output.logprob or 0.0 for scored in self._scored]
        return CompletionOutput(
            index=self._answer.index,
            text="".join(self.pieces),
            token_ids=list(self._token_ids),
            finish_reason=self._answer.finish_reason,
            stop_reason=self._stop_reason,
            cumulative_logprob=sum(chosen) if self._with_logprobs else None,
            logprobs=self._entries() if self._with_logprobs else None,
            error=self._error,
        )

    def _entries(self) -> list[dict[int, Logprob]]:
        outputs = (scored.output for scored in self._scored)
        return [
            self._entry(output.token_id, output.logprob, output.top_logprobs)
            for output in outputs
            if output.token_id is not None and output.logprob is not None
        ]

    def _entry(
        self, token_id: int, logprob: float, best: tuple[tuple[int, float], ...]
    ) -> dict[int, Logprob]:
        """The token itself, and the best ones by rank."""
        own = Logprob(logprob, None, self._text(token_id))
        return {token_id: own} | {
            other: Logprob(value, rank, self._text(other))
            for rank, (other, value) in enumerate(best, start=1)
        }

    def _text(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id], skip_special=False, start=False)
