"""Keeps connections few and busy: aiohttp alone waits for a silent one for ever."""

import asyncio
from typing import Any

from aiohttp import web

from server.limits import HEADER_SECONDS, MAX_CONNECTIONS


class ConnectionGuard:
    """Makes the protocol of each connection; one whose first request does not come is closed.

    Args:
        max_connections: further ones are closed at once.
        seconds: time for a connection's first request line and headers.
    """

    def __init__(
        self, *, max_connections: int = MAX_CONNECTIONS, seconds: float = HEADER_SECONDS
    ) -> None:
        self._max_connections = max_connections
        self._seconds = seconds
        # an entry stays until its timer ends, for aiohttp's protocols take no weak references
        self._timers: dict[Any, asyncio.TimerHandle] = {}

    async def listen(self, server: web.Server, **where: Any) -> asyncio.Server:
        """Accepts connections for `server`; `where` as for `loop.create_server`."""
        loop = asyncio.get_running_loop()

        def make_protocol() -> asyncio.BaseProtocol:
            if len(server.connections) >= self._max_connections:
                return Refusal()
            handler = server()
            self._timers[handler] = loop.call_later(self._seconds, self._expire, handler)
            return handler

        return await loop.create_server(make_protocol, **where)

    def heard(self, request: web.Request) -> None:
        """The connection has sent a request: from here on keep-alive's rule holds."""
        timer = self._timers.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()

    def _expire(self, handler: Any) -> None:
        del self._timers[handler]
        if handler.transport is not None:
            handler.transport.abort()


class Refusal(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.abort()


GUARD = web.AppKey("connection_guard", ConnectionGuard)
