"""Turns a call's answers into one HTTP response: a JSON object, or a stream of events."""

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from aiohttp import web

from runtime.text.answer import Piece, ScoredToken
from server.generation import Generation
from server.schema import GenerationBody, StreamOptions
from server.sse import EventStream, event


@dataclass
class WholeAnswer:
    """All pieces of one answer together."""

    texts: list[str] = field(default_factory=list)
    scored: list[ScoredToken] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def add(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.scored += piece.scored
        self.finish_reason = piece.finish_reason
        self.stop_reason = piece.stop_reason


class Shape(Protocol):
    """How one route writes its answers."""

    id_prefix: str
    object_name: str
    chunk_name: str

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice of the chunk that begins an answer, if the route has one."""

    def delta(self, piece: Piece) -> dict[str, Any]:
        """The choice of a chunk."""

    def whole(self, index: int, answer: WholeAnswer) -> dict[str, Any]:
        """The choice of a response that comes at once."""


async def respond(
    request: web.Request, generation: Generation, shape: Shape, body: GenerationBody, model: str
) -> web.StreamResponse:
    """The response to a call, when it is complete."""
    head = {"id": f"{shape.id_prefix}-{uuid.uuid4().hex}", "created": int(time.time())}
    head |= {"model": model, "system_fingerprint": None}
    if body.stream:
        options = body.stream_options or StreamOptions()
        return await _stream(request, generation, shape, head, options)
    answers = [WholeAnswer() for _ in range(generation.num_choices)]
    async for pieces in generation.pieces():
        for piece in pieces:
            answers[piece.index].add(piece)
    choices = [shape.whole(index, answer) for index, answer in enumerate(answers)]
    return json_response(
        head | {"object": shape.object_name, "choices": choices, "usage": generation.usage()}
    )


def json_response(value: Any) -> web.Response:
    """A response of JSON."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


async def _stream(
    request: web.Request,
    generation: Generation,
    shape: Shape,
    head: dict[str, Any],
    options: StreamOptions,
) -> web.StreamResponse:
    head = head | {"object": shape.chunk_name}

    def chunks(choices: Iterable[dict[str, Any]]) -> list[bytes]:
        extra: dict[str, Any] = {}
        if options.continuous_usage_stats:
            extra["usage"] = generation.usage()
        elif options.include_usage:
            extra["usage"] = None
        return [event(head | {"choices": [choice]} | extra) for choice in choices]

    opened: set[int] = set()
    async with EventStream(request) as events:
        async for pieces in generation.pieces():
            if not pieces:
                await events.ping()
                continue
            choices = []
            for piece in pieces:
                if piece.index not in opened:
                    opened.add(piece.index)
                    first = shape.opening(piece.index)
                    if first is not None:
                        choices.append(first)
                choices.append(shape.delta(piece))
            await events.send(chunks(choices))
        if options.include_usage:
            await events.send([event(head | {"choices": [], "usage": generation.usage()})])
        await events.done()
    return events.response
