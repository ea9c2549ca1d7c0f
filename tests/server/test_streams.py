"""Streams and those who leave them: requests are freed, slow readers are let go."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runtime.request import TokenOutput
from server.errors import AnswerFailed
from server.lifecycle import LIFECYCLE
from server.sse import EventStream
from server.token_stream import TokenStream

LONG = {"prompt": "XYZ", "max_tokens": 250}


async def until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def num_requests(client: Any) -> int:
    return int(client.app[LIFECYCLE].model.engine.num_requests)


async def post_raw(client: Any, body: dict[str, Any]) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    data = json.dumps(body).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + f"Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    return reader, writer


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("engine", [("--delay", 0.05), ("--hang-after", 1)])
@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
async def test_a_client_that_leaves_frees_its_requests(
    start_server: Any, tmp_path: Path, stream: bool, engine: tuple[Any, ...], how: str, caplog: Any
) -> None:
    log = tmp_path / "events"
    client = await start_server(*engine, "--events", log)
    _, writer = await post_raw(client, LONG | {"stream": stream, "n": 2})
    await until(lambda: num_requests(client) == 2)
    if how == "reset":
        writer.transport.abort()
    elif how == "half-close":
        writer.write_eof()
    else:
        writer.close()
    await until(lambda: num_requests(client) == 0, 1.0)
    await until(lambda: "Abort [1, 2]" in log.read_text())
    await leave(writer)
    assert "Traceback" not in caplog.text


async def test_fifty_clients_leave_at_any_time(start_server: Any, caplog: Any) -> None:
    client = await start_server("--delay", 0.002)
    survivors = [asyncio.create_task(client.post("/v1/completions", json=LONG)) for _ in range(4)]
    writers = []
    for number in range(50):
        _, writer = await post_raw(client, LONG | {"stream": bool(number % 2)})
        writers.append(writer)
        await asyncio.sleep(0.001 * (number % 7))
        if number % 3:
            await leave(writers.pop(0))
    for writer in writers:
        await leave(writer)
    for survivor in survivors:
        body = await (await survivor).json()
        assert body["choices"][0]["text"] == ("XYZ" * 84)[:250]
    await until(lambda: num_requests(client) == 0)
    assert "Traceback" not in caplog.text


async def test_a_stream_that_is_not_read_is_let_go(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EventStream.__init__.__kwdefaults__, "write_seconds", 0.2)
    client = await start_server(max_model_len=4096)
    body = {"prompt": "X" * 40, "max_tokens": 4000, "n": 100, "stream": True, "logprobs": 20}
    reader, writer = await post_raw(client, body)
    await until(lambda: num_requests(client) > 0)
    await until(lambda: num_requests(client) == 0, 60)
    await leave(writer)


async def test_a_stream_that_waits_is_pinged(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.generation.PING_SECONDS", 0.05)
    client = await start_server("--hang-after", 1)
    reader, writer = await post_raw(client, LONG | {"stream": True})
    async with asyncio.timeout(5):
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b": ping\n\n")
    await leave(writer)


async def test_a_whole_answer_waits_in_silence(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.generation.PING_SECONDS", 0.01)
    client = await start_server("--delay", 0.05)
    response = await client.post("/v1/completions", json=LONG | {"max_tokens": 3})
    assert (await response.json())["choices"][0]["text"] == "XYZ"


async def test_a_bug_in_a_stream_is_an_error_event(
    start_server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("server.generation.Generation.usage", broken)
    monkeypatch.setattr("server.generation.Generation.close", lambda self: None)
    client = await start_server()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    text = await (await client.post("/v1/completions", json=LONG | options)).text()
    error = json.loads(text.split("\n\n")[-2].removeprefix("data: "))["error"]
    assert error["code"] == "internal_error"
    assert "[DONE]" not in text and "secret" not in text
    assert "secret" in caplog.text


def stream_of(*ids: int, max_pending: int = 99) -> tuple[TokenStream, list[Any]]:
    aborted: list[Any] = []
    return TokenStream(ids, abort=aborted.append, max_pending=max_pending), aborted


async def test_tokens_that_came_together_are_taken_together() -> None:
    stream, aborted = stream_of(1, 2)
    stream.put(TokenOutput(1, 7))
    stream.put(TokenOutput(2, 8, finish_reason="stop"))
    assert len(await stream.take()) == 2
    assert stream.unfinished == {1}
    stream.abort(1)
    assert aborted == [[1]]
    assert await stream.take() == []


async def test_a_stream_over_its_limit_fails_and_aborts() -> None:
    stream, aborted = stream_of(1, max_pending=1)
    for _ in range(3):
        stream.put(TokenOutput(1, 7))
    assert aborted == [[1]]
    with pytest.raises(AnswerFailed, match="not read in time"):
        await stream.take()


async def test_an_error_of_the_engine_says_what_it_was() -> None:
    stream, _ = stream_of(1)
    stream.put(TokenOutput(1, None, finish_reason="error", error="not a number"))
    with pytest.raises(AnswerFailed, match="not a number"):
        await stream.take()
