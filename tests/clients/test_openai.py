"""The official client as its documentation uses it: sync, async, streams, tools, parsed models."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

HI: Any = [{"role": "user", "content": "Write a stack in Python."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class City(BaseModel):
    name: str
    inhabitants: int
    kind: Literal["town", "village"]


class Small(BaseModel):
    """Short, whatever a model makes of it."""

    kind: Literal["town", "village"]
    is_old: bool


class Trip(BaseModel):
    cities: list[City]


@pytest.fixture(scope="module")
def demo(demo_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=demo_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def tools(tool_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=tool_url, api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_and_its_stream_say_the_same(demo: openai.OpenAI) -> None:
    model = demo.models.list().data[0].id
    asked: Any = {"model": model, "messages": HI, "max_tokens": 12, "temperature": 0}
    whole = demo.chat.completions.create(**asked)
    assert whole.usage is not None and whole.usage.completion_tokens == 12
    chunks = list(
        demo.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}
    )


def test_completions_with_logprobs_and_a_gap(demo: openai.OpenAI) -> None:
    found = demo.completions.create(
        model="demo", prompt=["def f(", "import "], max_tokens=4, logprobs=2, n=2, seed=1
    )
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    logprobs = found.choices[0].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None
    assert len(logprobs.token_logprobs) == 4
    gap = demo.completions.create(
        model="demo", prompt="def add(a, b):\n    return ", suffix="\n", max_tokens=4, temperature=0
    )
    assert gap.usage is not None and gap.usage.prompt_tokens > 3
    echo = demo.completions.create(model="demo", prompt="import ", echo=True, max_tokens=2)
    assert echo.choices[0].text.startswith("import ")


def test_prompts_are_scored_as_answers_are(demo: openai.OpenAI) -> None:
    asked: Any = {"model": "demo", "prompt": "import numpy as", "temperature": 0, "logprobs": 2}
    answer = demo.completions.create(**asked, max_tokens=3).choices[0]
    whole = asked | {"prompt": asked["prompt"] + answer.text, "echo": True, "max_tokens": 0}
    echoed = demo.completions.create(**whole)
    assert echoed.choices[0].text == whole["prompt"]
    assert echoed.usage is not None and echoed.usage.completion_tokens == 0
    given, scored = answer.logprobs, echoed.choices[0].logprobs
    assert given is not None and scored is not None
    assert given.tokens is not None and scored.tokens is not None
    assert given.token_logprobs is not None and scored.token_logprobs is not None
    assert scored.token_logprobs[0] is None
    assert scored.tokens[-3:] == given.tokens
    assert scored.token_logprobs[-3:] == pytest.approx(given.token_logprobs, abs=0.1)
    body = {"prompt_logprobs": 1, "priority": 1, "request_id": "scored"}
    chat = demo.chat.completions.create(model="demo", messages=HI, max_tokens=1, extra_body=body)
    found: Any = chat.model_extra
    assert chat.usage is not None and len(found["prompt_logprobs"]) == chat.usage.prompt_tokens
    assert chat.id == "chatcmpl-scored"


def test_answers_of_a_model_keep_to_their_forms(demo: openai.OpenAI) -> None:
    small = demo.chat.completions.parse(model="demo", messages=HI, response_format=Small)
    assert small.choices[0].message.parsed is not None
    wanted = {"structured_outputs": {"regex": "[0-9]{3}"}}
    text = demo.completions.create(model="demo", prompt="x = ", extra_body=wanted)
    assert text.choices[0].text.isdecimal() and len(text.choices[0].text) == 3
    assert text.choices[0].finish_reason == "stop"
    offered = openai.pydantic_function_tool(Small, name="settle")
    forced = demo.chat.completions.parse(
        model="demo",
        messages=HI,
        tools=[offered],
        tool_choice={"type": "function", "function": {"name": "settle"}},
    )
    (call,) = forced.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Small)


async def test_the_async_client_streams_at_once(demo_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=demo_url, api_key="none") as client:
        asked: Any = {"model": "demo", "messages": HI, "max_tokens": 8, "seed": 3}

        async def text() -> str:
            stream = await client.chat.completions.create(**asked, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        first, second = await asyncio.gather(text(), text())
    assert first == second != ""


def test_what_is_wrong_is_the_callers_error(demo: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        demo.chat.completions.create(model="demo", messages=HI, top_p=2)
    assert (error.value.param, error.value.code) == ("top_p", "invalid_value")


def test_tools_are_called(tools: openai.OpenAI) -> None:
    asked: Any = {"model": "demo", "messages": HI, "tools": [WEATHER]}
    choice = tools.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Paris, on the river Seine"}
    # and the answer goes back as the client has it
    history = [*HI, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert tools.chat.completions.create(**asked | {"messages": history}).choices


def test_calls_are_streamed(tools: openai.OpenAI) -> None:
    name, arguments, reason = "", "", None
    for chunk in tools.chat.completions.create(
        model="demo", messages=HI, tools=[WEATHER], stream=True
    ):
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.function is not None and call.index == 0
            name += call.function.name or ""
            arguments += call.function.arguments or ""
        reason = chunk.choices[0].finish_reason or reason
    assert (name, reason) == ("weather", "tool_calls")
    assert json.loads(arguments) == {"city": "Paris, on the river Seine"}


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_calls_can_be_forced(tools: openai.OpenAI, choice: Any) -> None:
    found = tools.chat.completions.create(
        model="demo", messages=HI, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False
    ).choices[0]
    (call,) = found.message.tool_calls or []
    assert call.type == "function"
    assert set(json.loads(call.function.arguments)) == {"city"}
    assert found.finish_reason == "tool_calls"
    assert found.message.content is None


def test_answers_are_parsed_into_models(tools: openai.OpenAI) -> None:
    found = tools.chat.completions.parse(model="demo", messages=HI, response_format=Trip)
    assert isinstance(found.choices[0].message.parsed, Trip)
    city = tools.chat.completions.parse(model="demo", messages=HI, response_format=City)
    assert city.choices[0].message.parsed == City(name="", inhabitants=0, kind="town")


def test_streams_are_parsed_into_models(tools: openai.OpenAI) -> None:
    with tools.chat.completions.stream(model="demo", messages=HI, response_format=City) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.parsed is not None


def test_tools_are_parsed_into_models(tools: openai.OpenAI) -> None:
    found = tools.chat.completions.parse(
        model="demo",
        messages=HI,
        tools=[openai.pydantic_function_tool(City, name="city")],
        tool_choice="required",
    )
    (call, *_) = found.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, City)
