"""Every wrong field is that client's 400 and is named, and the engine never hears of it."""

import json
from typing import Any

import pytest

from server.limits import MAX_CHOICES, MAX_MESSAGES
from server.schema import CODES
from server.unsupported import UNSUPPORTED
from tests.server.refusals import CHAT, COMPLETIONS, GOOD, refused

# field: values out of its range
OUT_OF_RANGE: dict[str, list[Any]] = {
    "temperature": [-0.1, 101, -1, 2**63],
    "top_p": [0, -0.5, 1.01],
    "min_p": [-0.1, 1.5],
    "top_k": [-2, 2**31],
    "repetition_penalty": [0, -1, 101],
    "presence_penalty": [-2.1, 2.1],
    "frequency_penalty": [-3, 3],
    "n": [0, -1, 129, 2**31, 2**70],
    "max_tokens": [0, -1, 2**31],
    "min_tokens": [-1, 2],
    "seed": [2**63, -(2**63) - 1],
    "stop": [[""], ["x"] * 17, "y" * 1025],
    "stop_token_ids": [[-1], [1024], list(range(33)), [2**70]],
    "logit_bias": [{"5": 101}, {"5": -100.5}, {"1024": 1}, {"x": 1}, {"-1": 1}, {"²": 1},
                   {str(i): 1 for i in range(301)}],
    "cache_salt": ["", "s" * 129],
}  # fmt: skip
NUMBERS = [
    "temperature", "top_p", "min_p", "top_k", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "n", "max_tokens", "min_tokens", "seed",
]  # fmt: skip
INTEGERS = {"top_k", "n", "max_tokens", "min_tokens", "seed"}
WRONG_TYPE: dict[str, list[Any]] = {
    **{name: [True, "1", [], {}, [1]] for name in NUMBERS},
    "stop": [1, [1], {"a": 1}, True],
    "stop_token_ids": [1, "1", ["1"], [1.5], [True]],
    "logit_bias": [[], 1, {"5": "1"}, {"5": True}, {"5": None}],
    "cache_salt": [1],
    "ignore_eos": [1, "true"],
    "skip_special_tokens": ["no"],
    "include_stop_str_in_output": [0],
    "stream": ["true", 1],
    "model": [1, ["tiny"]],
    "user": [5],
}


@pytest.mark.parametrize("url", [COMPLETIONS, CHAT])
async def test_values_out_of_range(client: Any, url: str) -> None:
    for name, values in OUT_OF_RANGE.items():
        for value in values:
            error = await refused(client, url, GOOD[url] | {name: value})
            assert error["param"] == name, (name, value, error)
            assert error["code"] == "invalid_value"


@pytest.mark.parametrize("url", [COMPLETIONS, CHAT])
async def test_values_of_wrong_type(client: Any, url: str) -> None:
    for name, values in WRONG_TYPE.items():
        for value in values:
            error = await refused(client, url, GOOD[url] | {name: value})
            assert error["param"].split(".")[0] == name, (name, value, error)
            assert error["code"] == "invalid_type", (name, value, error)
    for name in INTEGERS:
        assert (await refused(client, url, GOOD[url] | {name: 1.5}))["param"] == name


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e400", "-1e999", "9" * 5000])
async def test_numbers_that_json_does_not_have(client: Any, word: str) -> None:
    for name in [*NUMBERS, "logit_bias"]:
        value = f'{{"5": {word}}}' if name == "logit_bias" else word
        for url in (COMPLETIONS, CHAT):
            good = json.dumps({k: v for k, v in GOOD[url].items() if k != name})
            body = f'{good[:-1]}, "{name}": {value}}}'.encode()
            assert (await refused(client, url, body))["code"] == "invalid_json"


async def test_null_is_as_if_the_field_were_not_there(client: Any) -> None:
    names = [*WRONG_TYPE, *UNSUPPORTED, "stream_options", "logprobs"]
    for url in (COMPLETIONS, CHAT):
        response = await client.post(url, json=dict.fromkeys(names) | GOOD[url])
        assert response.status == 200, await response.text()


async def test_unsupported_fields_are_named_unless_they_ask_for_nothing(client: Any) -> None:
    for url in (COMPLETIONS, CHAT):
        for name, neutral in UNSUPPORTED.items():
            error = await refused(client, url, GOOD[url] | {name: {"some": "thing"}})
            assert (error["code"], error["param"]) == ("unsupported_parameter", name)
            for value in neutral:
                response = await client.post(url, json=GOOD[url] | {name: value})
                assert response.status == 200, (name, value)
    # 1 is not true
    await refused(client, COMPLETIONS, GOOD[COMPLETIONS] | {"best_of": True})
    await refused(client, CHAT, GOOD[CHAT] | {"add_special_tokens": True})


@pytest.mark.parametrize("url", [COMPLETIONS, CHAT, "/tokenize", "/detokenize"])
async def test_unknown_fields_are_named(client: Any, url: str) -> None:
    error = await refused(client, url, GOOD.get(url, {}) | {"temprature": 1})
    assert (error["code"], error["param"]) == ("unknown_parameter", "temprature")
    assert CODES["extra_forbidden"] == error["code"]


async def test_nested_unknown_fields_are_named(client: Any) -> None:
    body = GOOD[CHAT] | {"stream": True, "stream_options": {"usage": True}}
    error = await refused(client, CHAT, body)
    assert (error["code"], error["param"]) == ("unknown_parameter", "stream_options.usage")
    error = await refused(client, CHAT, GOOD[CHAT] | {"chat_template_kwargs": {"tokenize": True}})
    assert error["param"] == "chat_template_kwargs.tokenize"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 300}, "prompt"),
        ({"n": 128, "prompt": ["a"] * 3}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [""]}, "prompt"),
        ({"prompt": ["a", [1]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [1024]}, "prompt"),
        ({"prompt": [2**70]}, "prompt"),
        ({"prompt": [[1], [2.5]]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "x" * 4000}, "prompt"),
        ({"prompt": ["a"] * (MAX_CHOICES + 1)}, "prompt"),
    ],
)
async def test_bad_completions(client: Any, body: dict[str, Any], param: str) -> None:
    assert (await refused(client, COMPLETIONS, GOOD[COMPLETIONS] | body))["param"] == param


async def test_missing_fields_are_named(client: Any) -> None:
    for url, name in ((COMPLETIONS, "prompt"), (CHAT, "messages"), ("/detokenize", "tokens")):
        error = await refused(client, url, {})
        assert (error["code"], error["param"]) == ("missing_required_parameter", name)


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [USER] * (MAX_MESSAGES + 1)}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": 1, "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [USER, USER | {"shoe": 1}]}, "messages.1.shoe"),
        ({"messages": [USER | {"audio": {"id": "x"}}]}, "messages.0.audio"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "", "x": 1}]}]},
            "messages.0.content.0.x",
        ),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": -1, "logprobs": True}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"max_completion_tokens": 0, "max_tokens": None}, "max_tokens"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
    ],
)
async def test_bad_chats(client: Any, body: dict[str, Any], param: str) -> None:
    assert (await refused(client, CHAT, GOOD[CHAT] | body))["param"] == param


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
async def test_media_are_refused(client: Any, kind: str) -> None:
    part = {"type": kind, kind: {"url": "http://127.0.0.1:9/x.png"}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    error = await refused(client, CHAT, body)
    assert error["code"] == "unsupported_parameter"
    assert error["param"] == "messages.0.content.0.type"


async def test_an_unknown_model_is_a_404(client: Any) -> None:
    for url in (COMPLETIONS, CHAT):
        error = await refused(client, url, GOOD[url] | {"model": "gpt-4"}, 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert (await client.post(url, json=GOOD[url] | {"model": "tiny"})).status == 200
