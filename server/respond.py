"""Turns a call's answers into one HTTP response: a JSON object, or a stream of events."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from aiohttp import web

from runtime.request import PromptLogprob
from runtime.text.answer import Piece, ScoredToken
from server.generation import Generation
from server.schema import StreamOptions
from server.sse import EventStream, encoded_event, event


@dataclass
class WholeAnswer:
    """All pieces of one answer together."""

    texts: list[str] = field(default_factory=list)
    scored: list[ScoredToken] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] = field(default_factory=list)
    prompt_logprobs: tuple[PromptLogprob | None, ...] | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def add(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.scored += piece.scored
        self.finish_reason = piece.finish_reason
        self.stop_reason = piece.stop_reason
        self.token_ids += piece.token_ids
        self.prompt_logprobs = self.prompt_logprobs or piece.prompt_logprobs


class Shape(Protocol):
    """How one route writes its answers."""

    id_prefix: str
    object_name: str
    chunk_name: str

    def deltas(self, piece: Piece, *, first: bool) -> list[dict[str, Any]]:
        """The choices of the chunks for a piece; `first`: the piece begins its answer."""

    def whole(self, index: int, answer: WholeAnswer) -> dict[str, Any]:
        """The choice of a response that comes at once."""

    def prompt_fields(self, answers: Sequence[WholeAnswer]) -> dict[str, Any]:
        """Fields beside the choices that tell of the prompt; without answers, what a stream's
        first chunk has."""


@dataclass(frozen=True)
class Head:
    """What every chunk and response to one call has in common."""

    request_id: str
    model: str

    def fields(self, shape: Shape, object_name: str) -> dict[str, Any]:
        return {
            "id": f"{shape.id_prefix}-{self.request_id}",
            "object": object_name,
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": None,
        }


async def respond(
    request: web.Request,
    generation: Generation,
    shape: Shape,
    head: Head,
    stream: StreamOptions | None,
) -> web.StreamResponse:
    """The response to a call, when it is complete; `stream` is None for a JSON object."""
    if stream is not None:
        return await _stream(request, generation, shape, head, stream)
    answers = [WholeAnswer() for _ in range(generation.num_choices)]
    async for pieces in generation.pieces():
        for piece in pieces:
            answers[piece.index].add(piece)
    choices = [shape.whole(index, answer) for index, answer in enumerate(answers)]
    return json_response(
        head.fields(shape, shape.object_name)
        | {"choices": choices, "usage": generation.usage()}
        | shape.prompt_fields(answers)
    )


def json_response(value: Any) -> web.Response:
    """A response of JSON."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


async def _stream(
    request: web.Request,
    generation: Generation,
    shape: Shape,
    head: Head,
    options: StreamOptions,
) -> web.StreamResponse:
    fields = head.fields(shape, shape.chunk_name)
    # what all chunks begin with is encoded once
    beginning = msgspec.json.encode(fields)[:-1] + b',"choices":['

    def chunks(choices: Iterable[dict[str, Any]], extra: dict[str, Any]) -> list[bytes]:
        if options.continuous_usage_stats:
            extra = extra | {"usage": generation.usage()}
        elif options.include_usage:
            extra = extra | {"usage": None}
        ending = b"]" + (b"," + msgspec.json.encode(extra)[1:] if extra else b"}")
        encode = msgspec.json.encode
        return [encoded_event(beginning + encode(choice) + ending) for choice in choices]

    opened: set[int] = set()
    async with EventStream(request) as events:
        async for pieces in generation.pieces():
            if not pieces:
                await events.ping()
                continue
            extra = {} if opened else shape.prompt_fields(())
            choices = []
            for piece in pieces:
                choices += shape.deltas(piece, first=piece.index not in opened)
                opened.add(piece.index)
            if extra:
                await events.send(chunks(choices[:1], extra))
                choices = choices[1:]
            if choices:
                await events.send(chunks(choices, {}))
        if options.include_usage:
            last = fields | {"choices": [], "usage": generation.usage()}
            await events.send([event(last)])
        await events.done()
    return events.response
