"""/v1/completions against an engine that says the prompt again."""

import json
from typing import Any

import pytest

URL = "/v1/completions"


async def ask(client: Any, status: int = 200, **body: Any) -> dict[str, Any]:
    response = await client.post(URL, json=body)
    answer = await response.json()
    assert response.status == status, answer
    return answer


async def events(client: Any, url: str = URL, **body: Any) -> list[Any]:
    """The events of a stream, checked to be one: JSON, then [DONE], then the end."""
    response = await client.post(url, json=body | {"stream": True})
    assert response.status == 200, await response.text()
    assert response.content_type == "text/event-stream"
    found = (await response.text()).split("\n\n")
    assert found.pop() == ""
    assert found.pop() == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in found]


async def test_a_prompt_is_answered(client: Any) -> None:
    body = await ask(client, prompt="hello world", max_tokens=8)
    assert body["object"] == "text_completion"
    assert body["model"] == "tiny"
    assert body["id"].startswith("cmpl-")
    (choice,) = body["choices"]
    assert choice == {
        "index": 0,
        "text": "hello world",
        "logprobs": None,
        "finish_reason": "length",
        "stop_reason": None,
    }
    assert body["usage"] == {
        "prompt_tokens": 8,
        "completion_tokens": 8,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


async def test_without_max_tokens_an_answer_has_16(client: Any) -> None:
    assert (await ask(client, prompt="hi"))["usage"]["completion_tokens"] == 16


async def test_the_default_length_shrinks_to_the_room_that_is_left(client: Any) -> None:
    assert (await ask(client, prompt=[5] * 250))["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("XY", ["XYXY"]),
        (["XY", "ZQ"], ["XYXY", "ZQZQ"]),
        ([55, 56], ["XYXY"]),
        ([[55, 56], [57]], ["XYXY", "ZZZZ"]),
    ],
)
async def test_a_prompt_has_four_forms(client: Any, prompt: Any, texts: list[str]) -> None:
    body = await ask(client, prompt=prompt, max_tokens=4)
    assert [choice["text"] for choice in body["choices"]] == texts
    assert [choice["index"] for choice in body["choices"]] == list(range(len(texts)))


async def test_n_answers_to_each_prompt(client: Any) -> None:
    body = await ask(client, prompt=["XY", "ZQJ"], n=2, max_tokens=3)
    texts = [choice["text"] for choice in body["choices"]]
    assert texts == ["XYX", "YXY", "ZQJ", "QJZ"]
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["completion_tokens"] == 12


async def test_raw_prompts_hold_control_tokens_and_answers_end_at_one(client: Any) -> None:
    body = await ask(client, prompt="XYZ<|im_end|>", max_tokens=20)
    (choice,) = body["choices"]
    assert choice["text"] == "XYZ"
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] is None
    assert body["usage"] == body["usage"] | {"prompt_tokens": 4, "completion_tokens": 4}


async def test_ignore_eos_goes_on(client: Any) -> None:
    body = await ask(client, prompt="XY<|im_end|>", max_tokens=5, ignore_eos=True)
    assert body["choices"][0]["text"] == "XYXY"
    body = await ask(
        client, prompt="XY<|im_end|>", max_tokens=5, ignore_eos=True, skip_special_tokens=False
    )
    assert body["choices"][0]["text"] == "XY<|im_end|>XY"


async def test_stop_token_ids_end_an_answer_and_are_its_reason(client: Any) -> None:
    (choice,) = (await ask(client, prompt="XYZ", stop_token_ids=[57]))["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("XY", "stop", 57)
    body = await ask(client, prompt="XYZ", stop_token_ids=[57], include_stop_str_in_output=True)
    assert body["choices"][0]["text"] == "XYZ"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "text", "reason", "num_tokens"),
    [
        ("qr", "zyxq z", "qr", 8),
        (["rs", " z"], "zyxq", " z", 6),
        ("nowhere", "zyxq zqrszyx", None, 12),
        ("z", "", "z", 1),
    ],
)
async def test_stop_strings_across_tokens(
    client: Any, stop: Any, text: str, reason: str | None, num_tokens: int, stream: bool
) -> None:
    request = {"prompt": "zyxq zqrs", "max_tokens": 12, "stop": stop}
    if stream:
        found = await events(client, **request, stream_options={"include_usage": True})
        usage = found.pop()["usage"]
        choices = [event["choices"][0] for event in found]
        assert "".join(choice["text"] for choice in choices) == text
        last = choices[-1]
        assert all(choice["finish_reason"] is None for choice in choices[:-1])
    else:
        body = await ask(client, **request)
        usage, last = body["usage"], body["choices"][0]
        assert last["text"] == text
    assert last["finish_reason"] == ("length" if reason is None else "stop")
    assert last["stop_reason"] == reason
    assert usage["completion_tokens"] == num_tokens


async def test_stop_strings_can_be_shown(client: Any) -> None:
    body = await ask(client, prompt="zyxq", stop="xq", include_stop_str_in_output=True)
    assert body["choices"][0]["text"] == "zyxq"


async def test_a_stop_string_does_not_end_before_min_tokens(client: Any) -> None:
    body = await ask(client, prompt="XYZQ", stop="Y", min_tokens=5, max_tokens=12)
    assert body["choices"][0]["text"] == "XYZQX"


async def test_a_stop_string_frees_the_request(start_server: Any, tmp_path: Any) -> None:
    log = tmp_path / "events"
    client = await start_server("--delay", 0.01, "--events", log)
    await ask(client, prompt="XYZQ", stop="Z", max_tokens=200)
    await ask(client, prompt="XY", max_tokens=2)
    assert "Abort [1]" in log.read_text()


async def test_a_stream_says_what_the_whole_answer_says(client: Any) -> None:
    request = {"prompt": "smile \U0001f600 and wave", "max_tokens": 40, "n": 2}
    whole = await ask(client, **request)
    texts = ["", ""]
    for event in await events(client, **request):
        (choice,) = event["choices"]
        assert event["object"] == "text_completion"
        assert "usage" not in event
        texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    # the second answer begins inside no character, and the first never shows half of one
    assert "�" not in texts[0]


async def test_usage_comes_last_when_asked_for(client: Any) -> None:
    found = await events(client, prompt="XY", max_tokens=3, stream_options={"include_usage": True})
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["completion_tokens"] == 3
    assert all(event["usage"] is None for event in found[:-1])


async def test_usage_comes_with_every_event_when_asked_for(client: Any) -> None:
    found = await events(
        client, prompt="XY", max_tokens=3, stream_options={"continuous_usage_stats": True}
    )
    assert found[-1]["usage"]["completion_tokens"] == 3
    assert all(event["usage"]["prompt_tokens"] == 2 for event in found)


async def test_logprobs_in_completions_shape(client: Any) -> None:
    body = await ask(client, prompt="XYZ", max_tokens=3, logprobs=2)
    logprobs = body["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["X", "Y", "Z"]
    assert logprobs["token_logprobs"] == [-9999.0, -0.5, -0.5]
    assert logprobs["text_offset"] == [0, 1, 2]
    assert logprobs["top_logprobs"][1] == {"Y": -0.5, "!": -1.0, '"': -2.0}


async def test_logprobs_of_a_stream_are_those_of_the_whole(client: Any) -> None:
    tokens: list[str] = []
    for event in await events(client, prompt="XYZ", max_tokens=5, logprobs=0):
        tokens += event["choices"][0]["logprobs"]["tokens"]
    assert tokens == list("XYZXY")


async def test_the_same_seed_goes_to_all_choices(start_server: Any) -> None:
    client = await start_server()
    body = await ask(client, prompt="XY", n=3, seed=-7, max_tokens=2, logit_bias={"5": -1})
    assert len(body["choices"]) == 3


async def test_an_engine_that_refuses_is_a_400(start_server: Any) -> None:
    client = await start_server("--refuse", "no such thing")
    for stream in (False, True):
        error = (await ask(client, 400, prompt="XY", stream=stream))["error"]
        assert error == {
            "message": "no such thing",
            "type": "invalid_request_error",
            "param": "prompt",
            "code": "invalid_value",
        }


async def test_a_failed_request_is_a_500_or_an_error_event(start_server: Any) -> None:
    client = await start_server("--fail-after", 3)
    error = (await ask(client, 500, prompt="XYZ", max_tokens=9))["error"]
    assert (error["type"], error["code"]) == ("server_error", "answer_failed")
    response = await client.post(
        URL, json={"prompt": "XYZ", "max_tokens": 9, "stream": True, "ignore_eos": True}
    )
    text = await response.text()
    if response.status == 200:  # the first tokens may have come alone
        assert "[DONE]" not in text
        assert json.loads(text.split("\n\n")[-2].removeprefix("data: "))["error"] == error


async def test_too_many_requests_are_refused_before_the_stream_opens(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine_client.MAX_QUEUED", 0)
    client = await start_server("--max-num-seqs", 2)
    response = await client.post(URL, json={"prompt": "XY", "n": 3, "stream": True})
    assert response.status == 429
    assert response.headers["Retry-After"]
    assert (await response.json())["error"]["code"] == "queue_full"
    await ask(client, prompt="XY", n=2)


async def test_a_reader_who_is_too_slow_loses_the_answer(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine_client.MAX_PENDING", 0)
    client = await start_server()
    error = (await ask(client, 500, prompt="XY"))["error"]
    assert error["message"] == "the answer was not read in time"
