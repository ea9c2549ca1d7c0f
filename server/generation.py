"""One call's answers, from admission to usage: what completions and chats have in common."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.errors import RequestError
from runtime.messages import Submit
from runtime.request import SamplingParams, TokenOutput, answer_room
from runtime.text.answer import Answer, Piece, never_complete
from server.errors import deadline_exceeded, queue_timeout
from server.limits import MAX_CHOICES, PING_SECONDS, QUEUE_SECONDS, REQUEST_SECONDS
from server.metrics import FinishedAnswer, Metrics
from server.prompts import check_ids
from server.request_log import log_finished
from server.served_model import ServedModel
from server.token_stream import TokenStream


@dataclass(frozen=True)
class Call:
    """What a client asks for: prompts, `params.n` answers to each.

    Attributes:
        default_max_tokens: where `params.max_tokens` is None; None for all that fits.
        starts_text: answers are texts of their own, not the prompt's going on.
        cache_salt: only calls with the same one share cached prefixes.
        priority: calls with a lower one are served earlier.
        with_ids: pieces hold their tokens' ids.
        prompt_only: the answers are not wanted, only what is known of their prompts.
        end_finder: makes what says of one answer's text, piece by piece, whether it is complete.
    """

    request_id: str
    prompts: list[list[int]]
    params: SamplingParams
    default_max_tokens: int | None
    starts_text: bool
    cache_salt: str = ""
    priority: int = 0
    with_ids: bool = False
    prompt_only: bool = False
    end_finder: Callable[[], Callable[[str], bool]] = lambda: never_complete
    arrival: float = field(default_factory=time.monotonic)


class Generation:
    """The answers of a call while they are made."""

    def __init__(
        self, call: Call, answers: dict[int, Answer], stream: TokenStream, metrics: Metrics
    ) -> None:
        self._call = call
        self._answers = answers
        self._stream = stream
        self._metrics = metrics
        self._first_token: dict[int, float] = {}
        self._last_token = dict.fromkeys(answers, call.arrival)

    @property
    def num_choices(self) -> int:
        return len(self._answers)

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """What the answers gain, step by step; an empty list where nothing came for a while.

        Raises:
            RequestError, EngineDied, AnswerFailed, ShuttingDown: as `TokenStream.take`.
            ApiError: 503, it waited too long for its turn; 504, it takes too long.
        """
        while True:
            self._check_time()
            outputs = await self._stream.take(PING_SECONDS)
            if outputs:
                pieces = self._push(outputs)
                if pieces:
                    yield pieces
            elif self._stream.unfinished:
                yield []
            else:
                return

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage figures, so far."""
        num_prompt = sum(map(len, self._call.prompts))
        num_output = sum(answer.num_tokens for answer in self._answers.values())
        # the answers to one prompt share it, so that the first speaks for all
        cached = sum(
            answer.num_cached_tokens
            for answer in self._answers.values()
            if answer.index % self._call.params.n == 0
        )
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_output,
            "total_tokens": num_prompt + num_output,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def close(self) -> None:
        """Counts what did not finish, and logs the call; no text of it."""
        for answer in self._answers.values():
            if answer.finish_reason is None:
                self._metrics.aborted()
        usage = self.usage()
        log_finished(
            self._call.request_id,
            num_prompt=usage["prompt_tokens"],
            num_output=usage["completion_tokens"],
            arrival=self._call.arrival,
            reasons=(answer.finish_reason or "abort" for answer in self._answers.values()),
        )

    def _check_time(self) -> None:
        """Looked at between steps and pings, so a few seconds late at worst."""
        seconds = time.monotonic() - self._call.arrival
        if seconds > REQUEST_SECONDS:
            raise deadline_exceeded(REQUEST_SECONDS)
        if seconds > QUEUE_SECONDS and not self._stream.begun and not self._first_token:
            raise queue_timeout(QUEUE_SECONDS)

    def _push(self, outputs: Sequence[TokenOutput]) -> list[Piece]:
        now = time.monotonic()
        lots: dict[int, list[TokenOutput]] = {}
        for output in outputs:
            lots.setdefault(output.request_id, []).append(output)
        pieces = []
        for request_id, lot in lots.items():
            answer = self._answers[request_id]
            self._observe(answer, now - self._last_token[request_id], len(lot))
            self._first_token.setdefault(request_id, now)
            self._last_token[request_id] = now
            piece = answer.push(lot)
            if answer.ended_by_text:
                self._stream.abort(request_id)
            if piece.finish_reason is not None:
                self._metrics.finished(self._finished(request_id, piece.finish_reason))
            if not piece.is_empty:
                pieces.append(piece)
        return pieces

    def _finished(self, request_id: int, reason: str) -> FinishedAnswer:
        call, answer = self._call, self._answers[request_id]
        return FinishedAnswer(
            reason=reason,
            arrival=call.arrival,
            begun=self._stream.begun.get(request_id),
            first_token=self._first_token[request_id],
            last_token=self._last_token[request_id],
            num_prompt=len(call.prompts[answer.index // call.params.n]),
            num_output=answer.num_tokens,
            max_tokens=call.params.max_tokens,
            n=call.params.n,
        )

    def _observe(self, answer: Answer, seconds: float, num_tokens: int) -> None:
        if answer.num_tokens == 0:
            self._metrics.time_to_first_token.observe(seconds)
        else:
            self._metrics.inter_token_latency.observe(seconds / num_tokens)


@asynccontextmanager
async def generate(call: Call, model: ServedModel, metrics: Metrics) -> AsyncIterator[Generation]:
    """Submits a call; leaving the context early aborts what is unfinished.

    Raises:
        RequestError: the call asks for what cannot be given.
        Overloaded: the queue is full.
        EngineDied: the engine is gone.
    """
    requests = _requests(call, model)
    answers = {
        request.request_id: Answer(
            index,
            model.text.tokenizer,
            request.params,
            start=call.starts_text,
            with_ids=call.with_ids,
            hidden=call.prompt_only,
            is_complete=call.end_finder(),
        )
        for index, request in enumerate(requests)
    }
    async with model.engine.generate(requests) as stream:
        generation = Generation(call, answers, stream, metrics)
        try:
            yield generation
        finally:
            generation.close()


def _requests(call: Call, model: ServedModel) -> list[Submit]:
    """One request for each answer; all are checked before any is submitted."""
    params, info = call.params, model.info
    if len(call.prompts) * params.n > MAX_CHOICES:
        raise RequestError(
            f"at most {MAX_CHOICES} answers in one call, got {len(call.prompts)} prompts "
            f"with n {params.n}",
            param="n",
        )
    check_ids(list(params.stop_token_ids), info.vocab_size, param="stop_token_ids")
    check_ids(list(params.logit_bias), info.vocab_size, param="logit_bias")
    requests = []
    for ids in call.prompts:
        room = answer_room(
            len(ids),
            params.max_tokens,
            max_model_len=info.max_model_len,
            kv_tokens=info.kv_tokens,
        )
        if params.max_tokens is None and call.default_max_tokens is not None:
            room = min(room, max(call.default_max_tokens, params.min_tokens))
        bounded = replace(params, max_tokens=room)
        seed = model.next_seed() if params.seed is None else params.seed
        requests += [
            Submit(
                model.engine.new_id(), ids, bounded, seed, choice, call.cache_salt, call.priority
            )
            for choice in range(params.n)
        ]
    return requests
