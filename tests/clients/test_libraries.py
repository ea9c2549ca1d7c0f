"""litellm, langchain-openai and instructor, with nothing changed but the base URL."""

from collections.abc import Iterator
from typing import Any

import httpx
import instructor
import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

HI = [{"role": "user", "content": "Write a stack in Python."}]


class City(BaseModel):
    """A city."""

    name: str
    inhabitants: int


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """What langchain's models would make for themselves and never close."""
    with httpx.Client() as client:
        yield client


def options(url: str, http: httpx.Client) -> dict[str, Any]:
    return {"model": "demo", "base_url": url, "api_key": "none", "http_client": http}


def test_langchain_asks_and_streams(demo_url: str, http: httpx.Client) -> None:
    model = ChatOpenAI(**options(demo_url, http), max_tokens=8, temperature=0, stream_usage=True)
    whole = model.invoke("Write a stack in Python.")
    streamed: Any = None
    for chunk in model.stream("Write a stack in Python."):
        assert isinstance(chunk, AIMessageChunk)
        streamed = chunk if streamed is None else streamed + chunk
    assert isinstance(whole, AIMessage)
    assert streamed.content == whole.content
    assert streamed.usage_metadata["output_tokens"] == 8
    text = OpenAI(**options(demo_url, http), max_tokens=4, temperature=0)
    assert text.invoke("import ") == text.invoke("import ")


def test_langchain_calls_tools(tool_url: str, http: httpx.Client) -> None:
    model = ChatOpenAI(**options(tool_url, http)).bind_tools([weather])
    answer = model.invoke("What is the weather in Paris?")
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Paris, on the river Seine"})
    streamed: Any = None
    for chunk in model.stream("What is the weather in Paris?"):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.tool_calls[0]["args"] == call["args"]
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    assert model.invoke([("user", "What is the weather?"), answer, result]).content


def test_langchain_fills_models(tool_url: str, http: httpx.Client) -> None:
    for method in ("json_schema", "function_calling"):
        model = ChatOpenAI(**options(tool_url, http)).with_structured_output(City, method=method)
        assert isinstance(model.invoke("A city, please."), City)


async def test_litellm_asks_and_streams(demo_url: str) -> None:
    import litellm  # here: it takes seconds, and the other tests do not need it

    async with openai.AsyncOpenAI(base_url=demo_url, api_key="none") as client:
        asked: Any = {"model": "openai/demo", "messages": HI, "client": client}
        asked |= {"max_tokens": 8, "temperature": 0}
        whole = await litellm.acompletion(**asked)
        text = ""
        async for chunk in await litellm.acompletion(**asked, stream=True):
            text += chunk.choices[0].delta.content or ""
    assert text == whole.choices[0].message.content


def test_litellm_fills_models(tool_url: str) -> None:
    import litellm

    with openai.OpenAI(base_url=tool_url, api_key="none") as client:
        answer = litellm.completion(
            model="openai/demo", messages=HI, client=client, response_format=City
        )
    assert City.model_validate_json(answer.choices[0].message.content)


def test_instructor_fills_models(tool_url: str) -> None:
    with openai.OpenAI(base_url=tool_url, api_key="none", max_retries=0) as client:
        for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
            filled = instructor.from_openai(client, mode=mode).chat.completions.create(
                model="demo", messages=HI, response_model=City, max_retries=0
            )
            assert isinstance(filled, City)
