"""Gathers the tokens of one answer into its text and its result."""

from collections.abc import Callable

from runtime.outputs import CompletionOutput, Logprob
from runtime.request import SamplingParams, TokenOutput
from runtime.text.answer import AnswerText


class Collector:
    """One answer in the making.

    Args:
        text: turns its tokens into text.
        token_text: how the vocabulary spells a token, for log-probabilities.
    """

    def __init__(self, text: AnswerText, params: SamplingParams, token_text: Callable[[int], str]):
        self._text = text
        self._params = params
        self._token_text = token_text
        self._pieces: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[dict[int, Logprob]] = []
        self._finish_reason: str | None = None
        self._stop_reason: str | int | None = None
        self._error: str | None = None
        self._cumulative = 0.0
        self.num_cached_tokens = 0

    @property
    def finished(self) -> bool:
        """Whether the answer has ended; the engine may not know yet (a stop string)."""
        return self._finish_reason is not None

    def push(self, output: TokenOutput) -> str:
        """Takes the next token; the text that it adds."""
        self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
        self._finish_reason, self._error = output.finish_reason, output.error
        added = ""
        if output.token_id is not None:
            self._take_token(output, output.token_id)
            # the token that ends an answer is not part of its text, unless it is asked for
            if output.finish_reason != "stop" or self._params.include_stop_str_in_output:
                added = self._take_text([output.token_id])
            if output.finish_reason == "stop" and output.token_id in self._params.stop_token_ids:
                self._stop_reason = output.token_id
        if output.finish_reason is not None and not isinstance(self._stop_reason, str):
            piece = self._text.flush()
            added += self._keep(piece.text, piece.stopped)
        return added

    def output(self, index: int) -> CompletionOutput:
        """The whole answer, which has ended."""
        assert self._finish_reason is not None
        asked = self._params.logprobs is not None
        return CompletionOutput(
            index=index,
            text="".join(self._pieces),
            token_ids=self._token_ids,
            finish_reason=self._finish_reason,
            stop_reason=self._stop_reason,
            cumulative_logprob=self._cumulative if asked else None,
            logprobs=self._logprobs if asked else None,
            error=self._error,
        )

    def _take_token(self, output: TokenOutput, token_id: int) -> None:
        self._token_ids.append(token_id)
        if output.logprob is None:
            return
        self._cumulative += output.logprob
        ranked = {
            other: Logprob(logprob, rank, self._token_text(other))
            for rank, (other, logprob) in enumerate(output.top_logprobs, start=1)
        }
        chosen = Logprob(output.logprob, None, self._token_text(token_id))
        self._logprobs.append({token_id: chosen} | ranked)

    def _take_text(self, token_ids: list[int]) -> str:
        piece = self._text.push(token_ids)
        return self._keep(piece.text, piece.stopped)

    def _keep(self, text: str, stopped: str | None) -> str:
        if stopped is not None:
            self._finish_reason, self._stop_reason = "stop", stopped
        self._pieces.append(text)
        return text
