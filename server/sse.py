"""Server-sent events: a stream that opens with its first event and always says how it ended."""

import logging
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

from server.errors import internal_problem, problem_of
from server.lazy_timer import LazyTimer
from server.limits import WRITE_SECONDS
from server.request_id import REQUEST_ID

logger = logging.getLogger(__name__)

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # proxies such as nginx would collect the events
}
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def event(data: Any) -> bytes:
    """One event of JSON."""
    return encoded_event(msgspec.json.encode(data))


def encoded_event(json: bytes) -> bytes:
    """One event of what is JSON already."""
    return b"data: " + json + b"\n\n"


class EventStream:
    """`async with EventStream(request) as events:`; `events.response` is what the handler returns.

    Until the first event an error is the handler's, and becomes a status; after it, it becomes an
    event, and the stream closes without [DONE].
    """

    def __init__(self, request: web.Request, *, write_seconds: float = WRITE_SECONDS) -> None:
        self.response = web.StreamResponse(headers=HEADERS)
        self._request = request
        self._writing = LazyTimer(write_seconds, self._give_up)
        self._is_stuck = False

    async def send(self, events: Iterable[bytes]) -> None:
        """Writes events as one; waits where the client is slow."""
        await self._write(b"".join(events))

    async def ping(self) -> None:
        """Writes a comment, so that proxies and clients see a sign of life."""
        await self._write(PING)

    async def done(self) -> None:
        """Ends the stream well."""
        await self._end(DONE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        try:
            return await self._tell(error)
        finally:
            self._writing.close()

    async def _tell(self, error: BaseException | None) -> bool:
        """Whether the error, if there is one, has been dealt with."""
        if not isinstance(error, Exception) or not self.response.prepared:
            return False
        if isinstance(error, ConnectionError):
            return True  # the client has left, and there is nobody to tell
        problem = problem_of(error)
        if problem is None:
            logger.error("%s: an answer failed", self._request[REQUEST_ID], exc_info=error)
            problem = internal_problem(self._request[REQUEST_ID])
        await self._end(encoded_event(problem.body()))
        return True

    async def _end(self, data: bytes) -> None:
        await self._write(data)
        self._writing.start()
        await self.response.write_eof()
        self._writing.stop()

    async def _write(self, data: bytes) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        self._writing.start()
        await self.response.write(data)
        self._writing.stop()
        if self._is_stuck:
            raise ConnectionResetError("the client does not read its stream")

    def _give_up(self) -> None:
        self._is_stuck = True
        if self._request.transport is not None:
            self._request.transport.abort()
