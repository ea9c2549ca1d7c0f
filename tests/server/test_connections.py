"""Connections that say nothing, or too slowly, or are too many."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from server.connections import GUARD, ConnectionGuard


@pytest.fixture
async def address(request: pytest.FixtureRequest) -> Any:
    guard = ConnectionGuard(max_connections=2, seconds=0.2)

    async def hello(request: web.Request) -> web.Response:
        request.app[GUARD].heard(request)
        return web.Response(text="hello")

    app = web.Application()
    app[GUARD] = guard
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    server = await guard.listen(runner.server, host="127.0.0.1", port=0)
    yield server.sockets[0].getsockname()
    server.close()
    await runner.cleanup()


async def closed(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(2):
            return await reader.read() == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n"])
async def test_a_connection_without_a_request_is_closed(address: Any, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(sent)
    assert await closed(reader)
    writer.close()


async def test_a_connection_with_a_request_stays(address: Any) -> None:
    reader, writer = await asyncio.open_connection(*address)
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readuntil(b"hello")
        await asyncio.sleep(0.3)
    writer.close()


async def test_connections_beyond_the_limit_are_closed(address: Any) -> None:
    some = [await asyncio.open_connection(*address) for _ in range(3)]
    await asyncio.sleep(0.05)
    reader, _ = some[2]
    assert await closed(reader)
    assert not some[0][0].at_eof()
    for _, writer in some:
        writer.close()
