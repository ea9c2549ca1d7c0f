"""The live feed: facts, then moments, made only while somebody listens and once for all."""

import asyncio
import json
from typing import Any

import pytest

from runtime.errors import EngineDied
from server.lifecycle import LIFECYCLE
from server.live_route import LIVE_FEED
from server.one_answer import OneAnswer


async def events(response: Any, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            line = (await response.content.readline()).decode()
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
    return found


async def test_facts_come_first_and_then_moments(start_server: Any) -> None:
    client = await start_server("--delay", 0.02)
    body = {"prompt": "XYZ", "max_tokens": 200, "stream": True, "ignore_eos": True}
    answer = await client.post("/v1/completions", json=body)
    await answer.content.readline()
    response = await client.get("/live")
    assert response.headers["Content-Type"].startswith("text/event-stream")
    first, *moments = await events(response, 3)
    assert first["facts"]["model_name"] == "tiny"
    assert first["facts"]["kv_tokens"] == 64 * 64
    before, after = moments
    assert before["pages"] == {
        "counts": [1, 1, 62],
        "owners": [-1, 1, 0],
        "shared": [False, False, False],
    }
    (request,) = before["running"]
    assert (request["request_id"], request["num_prompt"]) == (1, 3)
    assert after["time"] > before["time"]
    assert after["stats"]["generation_tokens"] > before["stats"]["generation_tokens"]
    assert after["first_token"]["count"] == 1
    assert after["steps"]["decode_8"]["count"] > before["steps"]["decode_8"]["count"]
    response.close()
    answer.close()


async def test_many_who_look_ask_the_engine_once(start_server: Any, tmp_path: Any) -> None:
    log = tmp_path / "events"
    client = await start_server("--events", log)
    feed, model = client.app[LIVE_FEED], client.app[LIFECYCLE].model
    moments = await asyncio.gather(*(feed.moment(model) for _ in range(5)))
    assert len(set(moments)) == 1
    assert log.read_text().count("AskSnapshot") == 1


async def test_nobody_looks_and_nothing_is_asked(start_server: Any, tmp_path: Any) -> None:
    log = tmp_path / "events"
    client = await start_server("--events", log)
    response = await client.get("/live")
    await events(response, 2)
    response.close()
    await asyncio.sleep(0.1)
    count = log.read_text().count("AskSnapshot")
    await asyncio.sleep(0.7)  # more than two periods
    assert log.read_text().count("AskSnapshot") <= count + 1


async def test_it_ends_with_the_engine_and_says_so(start_server: Any) -> None:
    client = await start_server("--die-after", 3)
    response = await client.get("/live")
    await events(response, 2)
    await client.post("/v1/completions", json={"prompt": "XYZ", "max_tokens": 50})
    async with asyncio.timeout(10):
        text = (await response.read()).decode()
    assert "the engine has stopped" in text.rstrip().split("\n\n")[-1]
    assert (await client.get("/live")).status == 503


async def test_a_dead_engine_is_not_asked(start_server: Any) -> None:
    client = await start_server("--die-after", 1)
    engine = client.app[LIFECYCLE].model.engine
    await client.post("/v1/completions", json={"prompt": "XYZ"})
    async with asyncio.timeout(10):
        await client.app[LIFECYCLE].ended.wait()
    with pytest.raises(EngineDied, match="has stopped"):
        await engine.snapshot()


async def test_it_ends_when_the_server_shuts_down(client: Any) -> None:
    response = await client.get("/live")
    await events(response, 2)
    client.app[LIFECYCLE].draining = True
    async with asyncio.timeout(10):
        assert b"the server is shutting down" in await response.read()


async def test_one_answer_reaches_all_and_so_does_an_error() -> None:
    asked: list[int] = []
    answer: OneAnswer[str] = OneAnswer(lambda: asked.append(1))
    answer.put("unasked")
    waiting = [asyncio.create_task(answer.get()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    answer.put("yes")
    assert await asyncio.gather(*waiting[1:]) == ["yes", "yes"]
    assert asked == [1]
    failing = asyncio.create_task(answer.get())
    await asyncio.sleep(0)
    answer.fail(EngineDied("gone"))
    with pytest.raises(EngineDied, match="gone"):
        await failing
    answer.fail(EngineDied("nobody waits"))
    assert asked == [1, 1]
