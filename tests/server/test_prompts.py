"""Prompts that are echoed and scored, ids beside texts, gaps, ids and ranks of requests."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.lifecycle import LIFECYCLE

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


async def ask(client: Any, url: str, status: int = 200, **body: Any) -> dict[str, Any]:
    response = await client.post(url, json=body)
    answer = await response.json()
    assert response.status == status, answer
    return answer


async def stream(client: Any, url: str, **body: Any) -> list[dict[str, Any]]:
    response = await client.post(url, json=body | {"stream": True})
    assert response.status == 200, await response.text()
    *found, done, end = (await response.text()).split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in found]


async def test_echo_puts_the_prompt_before_the_answer(client: Any) -> None:
    body = {"prompt": ["XYZ", "Q<|im_start|>R"], "max_tokens": 3, "echo": True, "n": 2}
    texts = [choice["text"] for choice in (await ask(client, COMPLETIONS, **body))["choices"]]
    assert texts == ["XYZXYZ", "XYZYZX", "Q<|im_start|>RQR", "Q<|im_start|>RRQ"]
    shown = [""] * 4
    for event in await stream(client, COMPLETIONS, **body):
        shown[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert shown == texts


async def test_echo_of_token_ids(client: Any) -> None:
    answer = await ask(client, COMPLETIONS, prompt=[55, 56], max_tokens=1, echo=True)
    assert answer["choices"][0]["text"] == "XYX"


async def test_echoed_prompts_are_scored_with_their_answers(client: Any) -> None:
    body = {"prompt": "XYZ", "max_tokens": 2, "echo": True, "logprobs": 1}
    logprobs = (await ask(client, COMPLETIONS, **body))["choices"][0]["logprobs"]
    assert logprobs["tokens"] == list("XYZXY")
    assert logprobs["text_offset"] == [0, 1, 2, 3, 4]
    assert logprobs["token_logprobs"] == [None, -1.5, -1.5, -9999.0, -0.5]
    assert logprobs["top_logprobs"][:2] == [None, {"Y": -1.5, "!": -0.25}]
    found: dict[str, list[Any]] = {name: [] for name in logprobs}
    for event in await stream(client, COMPLETIONS, **body):
        for name, values in event["choices"][0]["logprobs"].items():
            found[name] += values
    assert found == logprobs


async def test_a_prompt_can_be_scored_alone(client: Any) -> None:
    body = {"prompt": "XYZ", "max_tokens": 0, "echo": True, "logprobs": 0}
    answer = await ask(client, COMPLETIONS, **body)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("XYZ", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -1.5, -1.5]
    assert answer["usage"]["completion_tokens"] == 0
    events = await stream(client, COMPLETIONS, **body)
    assert [event["choices"][0]["text"] for event in events] == ["XYZ"]
    await ask(client, COMPLETIONS, 400, **body | {"echo": False})


@pytest.mark.parametrize("url", [COMPLETIONS, CHAT])
async def test_prompt_logprobs_by_id(client: Any, url: str) -> None:
    prompt = {"prompt": "XYZ"} if url == COMPLETIONS else {"messages": HI}
    answer = await ask(client, url, **prompt, max_tokens=1, prompt_logprobs=2)
    place = answer["choices"][0] if url == COMPLETIONS else answer
    first, second, *_ = place["prompt_logprobs"]
    assert first is None
    ranks = sorted((entry["rank"] or 9, entry["logprob"]) for entry in second.values())
    assert ranks == [(1, -0.25), (2, -1.25), (9, -1.5)]
    assert second["0"]["decoded_token"] == "!"
    assert len(place["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    error = (await ask(client, url, 400, **prompt, prompt_logprobs=1, stream=True))["error"]
    assert error["param"] == "prompt_logprobs"
    error = (await ask(client, url, 400, **prompt, prompt_logprobs=21))["error"]
    assert error["param"] == "prompt_logprobs"


async def test_token_ids_beside_texts(client: Any) -> None:
    answer = await ask(client, COMPLETIONS, prompt="XY", max_tokens=3, return_token_ids=True)
    (choice,) = answer["choices"]
    assert choice["prompt_token_ids"] == [55, 56]
    assert choice["token_ids"] == [55, 56, 55]
    events = await stream(client, COMPLETIONS, prompt="XY", max_tokens=3, return_token_ids=True)
    choices = [event["choices"][0] for event in events]
    assert sum((choice["token_ids"] for choice in choices), []) == [55, 56, 55]
    assert [choice.get("prompt_token_ids") for choice in choices][0] == [55, 56]
    assert not any("prompt_token_ids" in choice for choice in choices[1:])


async def test_token_ids_beside_messages(client: Any) -> None:
    body = {"messages": HI, "max_tokens": 4, "return_token_ids": True}
    answer = await ask(client, CHAT, **body)
    ids = answer["prompt_token_ids"]
    assert answer["choices"][0]["token_ids"] == ids[:4]
    events = await stream(client, CHAT, **body)
    assert [event.get("prompt_token_ids") for event in events][:2] == [ids, None]
    found = [event["choices"][0].get("token_ids", []) for event in events]
    assert sum(found, []) == ids[:4]
    plain = await ask(client, CHAT, messages=HI, max_tokens=4)
    assert "prompt_token_ids" not in plain and "token_ids" not in plain["choices"][0]


async def test_a_suffix_asks_for_what_comes_before_it(start_server: Any, tmp_path: Path) -> None:
    submits = tmp_path / "submits"
    client = await start_server("--submits", submits)
    await ask(client, COMPLETIONS, prompt="X<|im_end|>", suffix="YZ", max_tokens=1)
    ids = json.loads(submits.read_text())["prompt_ids"]
    text = (await (await client.post("/detokenize", json={"tokens": ids})).json())["prompt"]
    assert text == "<|fim_prefix|>X<|im_end|><|fim_suffix|>YZ<|fim_middle|>"
    assert len(ids) > 7  # what the client spelled is no control token
    # as if it were not there
    await ask(client, COMPLETIONS, prompt="X", suffix="", max_tokens=1)
    assert json.loads(submits.read_text().splitlines()[1])["prompt_ids"] == [55]


async def test_a_suffix_needs_a_text_and_no_echo(client: Any) -> None:
    for fields in ({"prompt": [55], "suffix": "Y"}, {"prompt": "X", "suffix": "Y", "echo": True}):
        error = (await ask(client, COMPLETIONS, 400, **fields))["error"]
        assert error["param"] == "suffix"


async def test_a_suffix_needs_a_model_that_knows_of_it(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = client.app[LIFECYCLE].model.text.tokenizer
    monkeypatch.setattr(tokenizer, "fim", None)
    error = (await ask(client, COMPLETIONS, 400, prompt="X", suffix="Y"))["error"]
    assert (error["param"], error["code"]) == ("suffix", "unsupported_parameter")


async def test_a_request_can_be_named_and_ranked(start_server: Any, tmp_path: Path) -> None:
    submits = tmp_path / "submits"
    client = await start_server("--submits", submits)
    for url, prompt in ((COMPLETIONS, {"prompt": "X"}), (CHAT, {"messages": HI})):
        answer = await ask(client, url, **prompt, max_tokens=1, request_id="mine_1", priority=-3)
        assert answer["id"].endswith("-mine_1")
        for fields in ({"request_id": "a b"}, {"request_id": ""}, {"priority": 2**40}):
            error = (await ask(client, url, 400, **prompt, **fields))["error"]
            assert error["param"] in fields
    assert [json.loads(line)["priority"] for line in submits.read_text().splitlines()] == [-3, -3]


async def test_best_of_may_say_what_n_says(client: Any) -> None:
    await ask(client, COMPLETIONS, prompt="X", n=2, best_of=2, max_tokens=1)
    for fields in ({"best_of": 2}, {"n": 2, "best_of": 1}):
        error = (await ask(client, COMPLETIONS, 400, prompt="X", **fields))["error"]
        assert (error["param"], error["code"]) == ("best_of", "unsupported_parameter")
