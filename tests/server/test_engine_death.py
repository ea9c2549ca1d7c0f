"""An engine that ends, in every way and at every time: nobody waits, health says so."""

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from runtime.errors import EngineDied
from runtime.messages import Submit
from runtime.request import SamplingParams
from server.app import make_app
from server.engine_client import EngineClient
from server.engine_exit import EngineNotStarted
from server.lifecycle import LIFECYCLE

BODY = {"prompt": "XYZ", "max_tokens": 200}
DEATHS = [("--die-after", 3), ("--fatal-after", 3), ("--garbage-after", 3)]


async def until_ended(client: Any) -> int:
    lifecycle = client.app[LIFECYCLE]
    async with asyncio.timeout(10):
        await lifecycle.ended.wait()
    return int(lifecycle.exit_code)


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: death[0])
async def test_every_waiting_request_ends_with_an_error(
    start_server: Any, death: tuple[Any, ...]
) -> None:
    client = await start_server(*death, "--delay", 0.05)
    whole = asyncio.create_task(client.post("/v1/completions", json=BODY))
    stream = asyncio.create_task(client.post("/v1/completions", json=BODY | {"stream": True}))
    async with asyncio.timeout(10):
        response = await whole
        assert response.status == 500
        error = (await response.json())["error"]
        assert error == {
            "message": "the engine has stopped",
            "type": "server_error",
            "param": None,
            "code": "engine_died",
        }
        response = await stream
        text = await response.text()
    if response.status == 200:
        assert "[DONE]" not in text
        assert json.loads(text.split("\n\n")[-2].removeprefix("data: "))["error"] == error
    else:
        assert response.status == 500
    assert await until_ended(client) == 70
    for path in ("/health", "/health/live", "/ping"):
        assert (await client.get(path)).status == 503
    response = await client.post("/v1/completions", json=BODY)
    assert response.status == 503
    assert (await response.json())["error"]["code"] == "engine_died"


async def test_a_killed_engine_is_noticed_while_idle(
    start_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = await start_server()
    process = client.app[LIFECYCLE].model.engine._process.child
    os.kill(process.pid, signal.SIGKILL)
    assert await until_ended(client) == 70
    assert "was ended by SIGKILL" in caplog.text


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--fatal-at-start", "the file is 12 bytes short"), 2, "the file is 12 bytes short"),
        (("--die-at-start",), 70, "ended with exit code 9"),
    ],
)
async def test_an_engine_that_does_not_start(
    start_server: Any,
    flags: tuple[str, ...],
    code: int,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = await start_server(*flags)
    assert await until_ended(client) == code
    assert message in caplog.text
    assert (await client.get("/health")).status == 503


async def test_health_is_503_while_loading(start_server: Any) -> None:
    client = await start_server("--load", 0.5, wait=False)
    for path in ("/health", "/ping", "/v1/models"):
        response = await client.get(path)
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "model_loading"
        assert response.headers["Retry-After"]
    assert (await client.get("/health/live")).status == 200
    response = await client.post("/v1/completions", json=BODY)
    assert response.status == 503
    assert "vllm:num_requests_running" not in await (await client.get("/metrics")).text()
    async with asyncio.timeout(10):
        while (await client.get("/health")).status != 200:
            await asyncio.sleep(0.05)


async def test_a_model_that_is_not_there_ends_the_server(
    fake_options: Any, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    from dataclasses import replace

    options = fake_options()
    for model in (str(tmp_path / "none.gguf"), __file__):
        app = make_app(replace(options, config=replace(options.config, model=model)))
        lifecycle = app[LIFECYCLE]
        from aiohttp.test_utils import TestClient, TestServer

        async with TestClient(TestServer(app)):
            async with asyncio.timeout(10):
                await lifecycle.ended.wait()
            assert lifecycle.exit_code == 2


async def test_an_engine_that_does_not_end_is_killed(
    fake_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine_process.ENGINE_EXIT_SECONDS", 0.2)
    options = fake_options("--deaf")
    engine = EngineClient(options.engine_command)
    await engine.launch()
    await engine.start(options.config, [1], print)
    assert engine._process is not None
    await engine.stop()
    assert engine._process.child.returncode == -signal.SIGKILL
    with pytest.raises(EngineDied):
        async with engine.generate([]):
            pass


async def test_an_engine_that_closes_its_connection_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, fake_options: Any
) -> None:
    import sys

    monkeypatch.setattr("server.engine_process.ENGINE_EXIT_SECONDS", 0.2)
    code = "import os, sys, time; os.close(int(sys.argv[1])); time.sleep(60)"
    engine = EngineClient((sys.executable, "-c", code))
    with pytest.raises(EngineNotStarted, match="closed its connection"):
        await engine.launch()
        await engine.start(fake_options().config, [], print)
    await engine.stop()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("pack(300 * 2**20)", "a message of 314572800 bytes"),
        ("pack(2) + b'xx'", "a broken message"),
        ("encode(m.Outputs([], m.Stats()))", "a Outputs message before Ready"),
    ],
)
async def test_an_engine_that_does_not_keep_to_the_protocol(
    fake_options: Any, body: str, message: str
) -> None:
    import sys

    code = (
        "import runtime.messages as m, socket, sys, time; pack, encode = m.HEADER.pack, m.encode; "
        f"s = socket.socket(fileno=int(sys.argv[1])); s.sendall({body}); s.recv(1 << 20); s.recv(1)"
    )
    engine = EngineClient((sys.executable, "-c", code))
    with pytest.raises(EngineNotStarted, match=message):
        await engine.launch()
        await engine.start(fake_options().config, [], print)
    await engine.stop()


async def test_an_engine_that_hangs_is_killed_and_ends_its_requests(fake_options: Any) -> None:
    options = fake_options("--hang-after", "2")
    engine = EngineClient(options.engine_command, step_seconds=0.5)
    await engine.launch()
    await engine.start(options.config, [], print)
    await asyncio.sleep(0.7)  # an idle engine says nothing either, and lives
    request = Submit(engine.new_id(), [5, 6, 7], SamplingParams(max_tokens=50))
    with pytest.raises(EngineDied, match="has not finished a step for 0.5 s"):
        async with engine.generate([request]) as stream:
            while await stream.take():
                pass
    assert engine._process is not None
    assert await engine._process.child.wait() == -signal.SIGKILL
    await engine.stop()
