"""Tools in chats: what the model is told of them, and the calls that it answers with."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

URL = "/v1/chat/completions"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def chat(*texts: str, **body: Any) -> dict[str, Any]:
    """A chat to which the engine, which says the prompt again, answers "system", then `texts`."""
    text = "\n".join(texts)
    return {"messages": [{"role": "system", "content": text}], "tools": [WEATHER]} | body


async def ask(client: Any, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    response = await client.post(URL, json=body)
    answer = await response.json()
    assert response.status == status, answer
    return answer


async def stream(client: Any, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = await client.post(URL, json=body | {"stream": True})
    assert response.status == 200, await response.text()
    *found, done, end = (await response.text()).split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in found]


def joined(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of a stream's deltas."""
    message: dict[str, Any] = {"content": "", "tool_calls": []}
    for event in events:
        (choice,) = event["choices"]
        message["content"] += choice["delta"].get("content", "")
        for call in choice["delta"].get("tool_calls", []):
            if call["index"] == len(message["tool_calls"]):
                assert (call["type"], call["function"]["arguments"]) == ("function", "")
                message["tool_calls"].append(call["function"])
            else:
                assert set(call) == {"index", "function"}
                arguments = call["function"]["arguments"]
                message["tool_calls"][call["index"]]["arguments"] += arguments
    return message


async def test_a_call_is_a_call_and_no_text(client: Any) -> None:
    (choice,) = (await ask(client, chat(CALL)))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"].pop("tool_calls")
    assert choice["message"]["content"].strip() == "system"
    assert call["id"].startswith("call_") and call["type"] == "function"
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}


async def test_an_answer_without_a_call_is_text(client: Any) -> None:
    (choice,) = (await ask(client, chat("It rains.")))["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"] == {
        "role": "assistant",
        "content": "system\nIt rains.",
        "refusal": None,
    }


@pytest.mark.parametrize("delay", [0, 0.005])
async def test_a_stream_of_calls_is_the_whole_answer(start_server: Any, delay: float) -> None:
    client = await start_server("--delay", delay)
    body = chat("Look:", CALL, CALL.replace("Rome", "Oslo"))
    whole = (await ask(client, body))["choices"][0]["message"]
    events = await stream(client, body)
    message = joined(events)
    assert [json.loads(call["arguments"])["city"] for call in message["tool_calls"]] == [
        "Rome",
        "Oslo",
    ]
    assert message["content"] == whole["content"]
    assert message["tool_calls"] == [call["function"] for call in whole["tool_calls"]]
    reasons = [event["choices"][0]["finish_reason"] for event in events]
    assert reasons == [None] * (len(events) - 1) + ["tool_calls"]
    ids = [
        call["id"]
        for event in events
        for call in event["choices"][0]["delta"].get("tool_calls", [])
        if "id" in call
    ]
    assert len(set(ids)) == 2


async def test_arguments_come_as_they_are_written(start_server: Any) -> None:
    client = await start_server("--delay", 0.005)
    events = await stream(client, chat(CALL))
    fragments = [
        call["function"]["arguments"]
        for event in events
        for call in event["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert fragments[0] == ""
    assert len(fragments) > 3


async def test_one_call_where_only_one_is_wanted(start_server: Any, tmp_path: Path) -> None:
    events = tmp_path / "events"
    client = await start_server("--delay", 0.005, "--events", events)
    both = chat(CALL, CALL, stream_options={"include_usage": True})
    one = both | {"parallel_tool_calls": False}
    *_, usage = await stream(client, both)
    num_both = usage["usage"]["completion_tokens"]
    assert "Abort" not in events.read_text()
    *found, usage = await stream(client, one)  # the last event is the usage alone
    assert found[-1]["choices"][0]["finish_reason"] == "tool_calls"
    message = joined(found)
    assert [json.loads(call["arguments"]) for call in message["tool_calls"]] == [{"city": "Rome"}]
    assert message["content"].strip() == "system"
    # nothing more is generated, and what was is counted
    num_one = usage["usage"]["completion_tokens"]
    assert num_one < num_both // 2 + len("system")
    async with asyncio.timeout(5):
        while "Abort" not in events.read_text():
            await asyncio.sleep(0.01)
    whole = await ask(client, one | {"stream_options": None, "return_token_ids": True})
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "tool_calls" and choice["stop_reason"] is None
    assert [call["function"] for call in choice["message"]["tool_calls"]] == message["tool_calls"]
    assert whole["usage"]["completion_tokens"] == len(choice["token_ids"]) == num_one


async def test_text_without_a_call_goes_on_where_one_is_wanted(client: Any) -> None:
    body = chat("It rains.", '{"name": "snow", "arguments": {}}', parallel_tool_calls=False)
    (choice,) = (await ask(client, body))["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"].endswith('{"name": "snow", "arguments": {}}')


async def test_a_call_ends_no_answer_that_is_to_be_longer(client: Any) -> None:
    body = chat(CALL, CALL, parallel_tool_calls=False, min_tokens=100)
    answer = await ask(client, body)
    assert answer["usage"]["completion_tokens"] == 100
    assert len(answer["choices"][0]["message"]["tool_calls"]) == 1


async def test_tool_choice_none_leaves_the_text_as_it_is(client: Any) -> None:
    (choice,) = (await ask(client, chat(CALL, tool_choice="none")))["choices"]
    assert choice["message"]["content"] == f"system\n{CALL}"
    assert choice["finish_reason"] == "stop"


async def test_an_answer_cut_within_a_call_says_length(client: Any) -> None:
    (choice,) = (await ask(client, chat(CALL, max_tokens=40)))["choices"]
    assert choice["finish_reason"] == "length"


async def test_every_choice_has_its_own_calls(client: Any) -> None:
    choices = (await ask(client, chat(CALL, n=3, stop="</tool_call>")))["choices"]
    assert [len(choice["message"]["tool_calls"]) for choice in choices] == [1, 1, 1]


async def test_the_template_sees_tools_calls_and_results(start_server: Any, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(
        "{{ tools | tojson }}"
        "{% for message in messages %}\n{{ message.role }} {{ message.content }}"
        "{{ message.tool_calls | tojson if message.tool_calls }}{% endfor %}"
    )
    client = await start_server(chat_template=template, max_model_len=2048)
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    body = {"messages": history, "tools": [WEATHER], "return_token_ids": True, "max_tokens": 1}
    ids = (await ask(client, body))["prompt_token_ids"]
    text = (await (await client.post("/detokenize", json={"tokens": ids})).json())["prompt"]
    assert "Tells the weather." in text
    assert '"name": "weather", "arguments": {}' in text
    assert "tool rain" in text
    ids = (await ask(client, body | {"tool_choice": "none"}))["prompt_token_ids"]
    text = (await (await client.post("/detokenize", json={"tokens": ids})).json())["prompt"]
    assert "Tells the weather." not in text


@pytest.mark.parametrize(
    ("choice", "parallel", "several", "names"),
    [
        ("required", None, True, ["weather", "time"]),
        ("required", False, False, ["weather", "time"]),
        ({"type": "function", "function": {"name": "time"}}, None, False, ["time"]),
    ],
)
async def test_calls_are_forced_by_a_grammar(
    start_server: Any, tmp_path: Path, choice: Any, parallel: Any, several: bool, names: list[str]
) -> None:
    submits = tmp_path / "submits"
    client = await start_server("--submits", submits)
    time = {"type": "function", "function": {"name": "time"}}
    body = chat(CALL, tools=[WEATHER, time], tool_choice=choice, parallel_tool_calls=parallel)
    await ask(client, body)
    grammar = json.loads(submits.read_text())["params"]["structured_outputs"]["grammar"]
    assert [name for name in ("weather", "time") if name in grammar] == names
    assert ("call){" in grammar) == several


FUNCTION = {"type": "function", "function": {"name": "f"}}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [FUNCTION, FUNCTION]}, "tools.1.function.name", "invalid_value"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name",
     "invalid_value"),
    ({"tools": [{"type": "retrieval"}]}, "tools.0.type", "invalid_value"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name",
     "missing_required_parameter"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 1}}]},
     "tools.0.function.parameters", "invalid_type"),
    ({"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]},
     "tools", "invalid_value"),
    ({"tools": None, "tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tool_choice": "always"}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "function", "function": {"name": "g"}}},
     "tool_choice.function.name", "invalid_value"),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "invalid_value"),
    ({"response_format": {"type": "json_object"}}, "response_format", "invalid_value"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}],
      "tool_choice": "required"}, "tools.f.parameters", "invalid_schema"),
    ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
]  # fmt: skip


async def test_bad_tools(client: Any) -> None:
    for fields, param, code in BAD:
        error = (await ask(client, chat("x") | fields, 400))["error"]
        assert (error["param"], error["code"]) == (param, code), error
