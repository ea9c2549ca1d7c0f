"""One answer under way: its tokens become text, up to a stop string."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runtime.request import PromptLogprob, SamplingParams, TokenOutput
from runtime.text.detokenizer import IncrementalDetokenizer
from runtime.text.stop_strings import StopMatcher
from runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ScoredToken:
    """A token with its log probabilities, and where in the answer's text it begins."""

    output: TokenOutput
    offset: int


@dataclass(frozen=True)
class Piece:
    """What a lot of tokens adds to an answer.

    Attributes:
        text: may be empty: part of a character, or what may yet become a stop string.
        scored: the tokens themselves, where log probabilities were asked for.
        finish_reason: None while it goes on.
        stop_reason: the stop string, or the id out of stop_token_ids, that ended it.
        token_ids: the tokens, where they were asked for.
        prompt_logprobs: those of `TokenOutput`, with the first piece.
    """

    index: int
    text: str
    scored: tuple[ScoredToken, ...] = ()
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: tuple[int, ...] = ()
    prompt_logprobs: tuple[PromptLogprob | None, ...] | None = None

    @property
    def is_empty(self) -> bool:
        return not (
            self.text
            or self.scored
            or self.finish_reason is not None
            or self.token_ids
            or self.prompt_logprobs
        )


def never_complete(text: str) -> bool:
    """For answers that go on until the model, a stop string or a limit ends them."""
    return False


class Answer:
    """The text of one request, made as its tokens come.

    Args:
        index: the answer's place among the choices of its call.
        start: the answer begins a text; False where it goes on with the prompt's.
        with_ids: pieces hold their tokens' ids.
        hidden: only the prompt is of interest; the tokens neither show nor count.
        is_complete: told of the text piece by piece, says whether no more of it is wanted.

    Attributes:
        num_tokens: tokens that count as used.
        finish_reason: None while it goes on.
        ended_by_text: whether its text ended it, which the engine does not know of.
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        params: SamplingParams,
        *,
        start: bool,
        with_ids: bool = False,
        hidden: bool = False,
        is_complete: Callable[[str], bool] = never_complete,
    ) -> None:
        self.index = index
        self.num_tokens = 0
        self.num_cached_tokens = 0
        self.finish_reason: str | None = None
        self.ended_by_text = False
        self._params = params
        self._end_ids = tokenizer.stop_ids | set(params.stop_token_ids)
        self._with_ids = with_ids
        self._hidden = hidden
        self._detokenizer = IncrementalDetokenizer(
            tokenizer, params.skip_special_tokens, start=start
        )
        self._matcher = StopMatcher(params.stop, params.include_stop_str_in_output)
        self._is_complete = is_complete
        self._num_chars = 0
        self._stop_reason: int | str | None = None

    def push(self, outputs: Iterable[TokenOutput]) -> Piece:
        """Takes the next tokens; those after the end are dropped."""
        texts: list[str] = []
        scored: list[ScoredToken] = []
        ids: list[int] = []
        prompt_logprobs = None
        for output in outputs:
            if self.finish_reason is not None:
                break
            self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
            if output.prompt_logprobs is not None:
                prompt_logprobs = output.prompt_logprobs
            if output.token_id is not None and not self._hidden:
                self.num_tokens += 1
                if self._with_ids:
                    ids.append(output.token_id)
                if self._params.logprobs is not None:
                    scored.append(ScoredToken(output, self._num_chars))
                if self._shows(output):
                    texts.append(self._show(self._detokenizer.push((output.token_id,))))
            if output.finish_reason is not None and self.finish_reason is None:
                self._end(output)
                texts.append(self._show(self._detokenizer.flush()) + self._matcher.flush().text)
        return Piece(
            self.index,
            "".join(texts),
            tuple(scored),
            self.finish_reason,
            self._stop_reason,
            tuple(ids),
            prompt_logprobs,
        )

    def _shows(self, output: TokenOutput) -> bool:
        """Whether the token is text: one that ends answers is not, unless asked for.

        An answer of a given form may end with a token like any other, which completes it.
        """
        ends = output.finish_reason == "stop" and output.token_id in self._end_ids
        return not ends or self._params.include_stop_str_in_output

    def _show(self, text: str) -> str:
        """The part of `text` that can be shown, up to the first stop string."""
        self._num_chars += len(text)
        may_end = self.num_tokens >= self._params.min_tokens
        stopped = None
        if may_end:
            result = self._matcher.push(text)
            text, stopped = result.text, result.stopped
        is_complete = self._is_complete(text)
        if may_end and self.finish_reason is None and (is_complete or stopped is not None):
            self.finish_reason, self._stop_reason = "stop", stopped
            self.ended_by_text = True
        return text

    def _end(self, output: TokenOutput) -> None:
        self.finish_reason = output.finish_reason
        if output.finish_reason == "stop" and output.token_id in self._params.stop_token_ids:
            self._stop_reason = output.token_id
