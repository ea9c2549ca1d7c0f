"""Bodies that are no JSON object, too long, too slow, or sent elsewhere."""

import asyncio
import json
from typing import Any

import pytest

from server.errors import ApiError
from server.json_body import parse_json, read_json
from server.limits import MAX_BODY_BYTES, MAX_JSON_DEPTH
from tests.server.refusals import CHAT, COMPLETIONS, GOOD, refused

DEEP = b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello",
        b"[]",
        b"null",
        b'"text"',
        b'{"prompt": "a"',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud83d"}',
        b'{"\\udc00": 1}',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "stream_options": {"x": 1, "x": 1}}',
        b'{"prompt": NaN}',
        b'\xef\xbb\xbf{"prompt": "a"}',
        '{"prompt": "a"}'.encode("utf-16"),
        DEEP,
        b'{"a":' * MAX_JSON_DEPTH + b"{}" + b"}" * MAX_JSON_DEPTH,
    ],
)
async def test_what_is_not_strict_json(client: Any, raw: bytes) -> None:
    assert (await refused(client, COMPLETIONS, raw))["code"] == "invalid_json"


def test_json_may_be_as_deep_as_the_limit() -> None:
    parse_json(b'{"a":' * (MAX_JSON_DEPTH - 1) + b"{}" + b"}" * (MAX_JSON_DEPTH - 1))
    with pytest.raises(ApiError):
        parse_json(b'{"a":' * MAX_JSON_DEPTH + b"{}" + b"}" * MAX_JSON_DEPTH)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_other_media_types_are_a_415(client: Any, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await client.post(
        CHAT,
        data=json.dumps(GOOD[CHAT]).encode(),
        headers=headers,
        skip_auto_headers=("Content-Type",),
    )
    assert response.status == 415
    assert (await response.json())["error"]["code"] == "unsupported_media_type"


async def test_compressed_bodies_are_a_415(client: Any) -> None:
    response = await client.post(CHAT, json=GOOD[CHAT], headers={"Content-Encoding": "gzip"})
    assert response.status in (400, 415)
    assert (await response.json())["error"]["code"] == "unsupported_media_type"


async def test_a_body_over_the_limit_is_a_413(client: Any) -> None:
    body = b'{"prompt": "' + b"x" * MAX_BODY_BYTES + b'"}'
    assert (await refused(client, COMPLETIONS, body, 413))["code"] == "payload_too_large"


async def test_a_body_that_does_not_come_is_a_408(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(read_json.__kwdefaults__, "seconds", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        b"Content-Type: application/json\r\n\r\n{"
    )
    answer = await reader.readuntil(b"}}")
    assert b" 408 " in answer and b"request_timeout" in answer
    writer.close()


async def test_unknown_routes_and_methods(client: Any) -> None:
    assert (await refused(client, "/v2/nothing", {}, 404))["code"] == "not_found"
    response = await client.get(CHAT)
    assert response.status == 405
    assert response.headers["Allow"] == "POST"
    assert (await response.json())["error"]["code"] == "method_not_allowed"


async def test_a_million_wrong_things_are_one_quick_error(client: Any) -> None:
    many = 200_000
    bodies = [
        {"prompt": "a", **{str(i): 1 for i in range(many)}},
        {"prompt": ["a"] * (many // 2) + [1]},
        {"prompt": [1] * many + ["a"]},
        {"prompt": "a", "stop": [1] * many},
        {"prompt": "a", "stop_token_ids": ["x"] * many},
        {"prompt": "a", "logit_bias": {str(i): "x" for i in range(many)}},
        {"prompt": "a", "stream": True, "stream_options": {str(i): 1 for i in range(many)}},
    ]
    for body in bodies:
        await refused(client, COMPLETIONS, body)


async def test_a_bug_of_ours_is_a_500_that_says_nothing(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("secret at 0xdeadbeef")

    monkeypatch.setattr("server.completions.parse", broken)
    error = await refused(client, COMPLETIONS, GOOD[COMPLETIONS], 500)
    assert error["code"] == "internal_error"
    assert "secret" in caplog.text
