"""Server-sent events: a stream that opens with its first event and always says how it ended."""

import asyncio
import logging
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

from server.errors import internal_problem, problem_of
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
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


class EventStream:
    """`async with EventStream(request) as events:`; `events.response` is what the handler returns.

    Until the first event an error is the handler's, and becomes a status; after it, it becomes an
    event, and the stream closes without [DONE].
    """

    def __init__(self, request: web.Request, *, write_seconds: float = WRITE_SECONDS) -> None:
        self.response = web.StreamResponse(headers=HEADERS)
        self._request = request
        self._write_seconds = write_seconds

    async def send(self, events: Iterable[bytes]) -> None:
        """Writes events as one; waits where the client is slow."""
        await self._write(b"".join(events))

    async def ping(self) -> None:
        """Writes a comment, so that proxies and clients see a sign of life."""
        await self._write(PING)

    async def done(self) -> None:
        """Ends the stream well."""
        await self._write(DONE)
        await self._in_time(self.response.write_eof())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception) or not self.response.prepared:
            return False
        if isinstance(error, ConnectionError):
            return True  # the client has left, and there is nobody to tell
        problem = problem_of(error)
        if problem is None:
            logger.error("%s: an answer failed", self._request[REQUEST_ID], exc_info=error)
            problem = internal_problem(self._request[REQUEST_ID])
        await self._write(b"data: " + problem.body() + b"\n\n")
        await self._in_time(self.response.write_eof())
        return True

    async def _write(self, data: bytes) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        await self._in_time(self.response.write(data))

    async def _in_time(self, writing: Any) -> None:
        try:
            async with asyncio.timeout(self._write_seconds):
                await writing
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client does not read its stream") from None
