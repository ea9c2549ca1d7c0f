"""Answers that take too long, and those whose turn does not come."""

import json
from typing import Any

import pytest

URL = "/v1/completions"


@pytest.fixture(autouse=True)
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.generation.PING_SECONDS", 0.05)


async def test_an_answer_that_takes_too_long_is_a_504(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.generation.REQUEST_SECONDS", 0.2)
    client = await start_server("--delay", 0.02)
    body = {"prompt": "XYZ", "max_tokens": 200}
    response = await client.post(URL, json=body)
    assert response.status == 504
    assert response.headers["x-should-retry"] == "false"
    assert (await response.json())["error"]["code"] == "deadline_exceeded"
    text = await (await client.post(URL, json=body | {"stream": True})).text()
    assert "[DONE]" not in text
    last = json.loads(text.rstrip().rpartition("data: ")[2])
    assert last["error"]["code"] == "deadline_exceeded"
    short = await client.post(URL, json=body | {"max_tokens": 1})
    assert short.status == 200


async def test_a_request_whose_turn_does_not_come_is_a_503(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.generation.QUEUE_SECONDS", 0.2)
    client = await start_server("--hang-after", 0)  # nothing leaves its queue
    response = await client.post(URL, json={"prompt": "XYZ"})
    assert response.status == 503
    assert response.headers["Retry-After"]
    assert (await response.json())["error"]["code"] == "queue_timeout"
