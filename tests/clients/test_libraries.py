"""litellm, langchain-openai and instructor, with nothing changed but the base URL."""

import json
from typing import Any

import instructor
import openai
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


def chat_model(url: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model="demo", base_url=url, api_key="none", max_retries=0, **options)


def test_langchain_asks_and_streams(demo_url: str) -> None:
    model = chat_model(demo_url, max_tokens=8, temperature=0, stream_usage=True)
    whole = model.invoke("Write a stack in Python.")
    streamed: Any = None
    for chunk in model.stream("Write a stack in Python."):
        assert isinstance(chunk, AIMessageChunk)
        streamed = chunk if streamed is None else streamed + chunk
    assert isinstance(whole, AIMessage)
    assert streamed.content == whole.content
    assert streamed.usage_metadata["output_tokens"] == 8
    text = OpenAI(model="demo", base_url=demo_url, api_key="none", max_tokens=4, temperature=0)
    assert text.invoke("import ") == text.invoke("import ")


def test_langchain_calls_tools(tool_url: str) -> None:
    model = chat_model(tool_url).bind_tools([weather])
    answer = model.invoke("What is the weather in Paris?")
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Paris, on the river Seine"})
    streamed: Any = None
    for chunk in model.stream("What is the weather in Paris?"):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.tool_calls[0]["args"] == call["args"]
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    assert model.invoke([("user", "What is the weather?"), answer, result]).content


def test_langchain_fills_models(tool_url: str) -> None:
    for method in ("json_schema", "function_calling"):
        model = chat_model(tool_url).with_structured_output(City, method=method)
        assert isinstance(model.invoke("A city, please."), City)


async def test_litellm_asks_streams_and_calls_tools(demo_url: str, tool_url: str) -> None:
    import litellm  # here: it takes seconds, and the other tests do not need it

    shared: Any = {"model": "openai/demo", "messages": HI, "api_key": "none"}
    plain = shared | {"api_base": demo_url, "max_tokens": 8, "temperature": 0}
    whole = await litellm.acompletion(**plain)
    text = ""
    async for chunk in await litellm.acompletion(**plain, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert text == whole.choices[0].message.content
    offered = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    answer = await litellm.acompletion(**shared, api_base=tool_url, tools=[offered])
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris, on the river Seine"}


def test_instructor_fills_models(tool_url: str) -> None:
    with openai.OpenAI(base_url=tool_url, api_key="none", max_retries=0) as client:
        for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
            filled = instructor.from_openai(client, mode=mode).chat.completions.create(
                model="demo", messages=HI, response_model=City, max_retries=0
            )
            assert isinstance(filled, City)
