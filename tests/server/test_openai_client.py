"""The official client, sync and async, against a server of its own process' thread."""

import asyncio
from typing import Any

import openai
import pytest

HI: Any = [{"role": "user", "content": "hello"}]
ANSWER = "system\nYou are a helpful assistant."


def url_of(client: Any) -> str:
    return f"http://127.0.0.1:{client.port}/v1"


async def test_the_async_client(client: Any) -> None:
    async with openai.AsyncOpenAI(base_url=url_of(client), api_key="x") as ai:
        assert [model.id async for model in ai.models.list()] == ["tiny"]
        chat = await ai.chat.completions.create(
            model="tiny", messages=HI, temperature=0, seed=1, logprobs=True, top_logprobs=2
        )
        assert chat.choices[0].message.content == ANSWER
        assert chat.choices[0].logprobs is not None and chat.usage is not None
        text = await ai.completions.create(model="tiny", prompt="XYZ", max_tokens=6, logprobs=1)
        assert text.choices[0].text == "XYZXYZ"
        parts, usage = [], None
        stream = await ai.chat.completions.create(
            model="tiny",
            messages=HI,
            stream=True,
            stream_options={"include_usage": True},
            n=2,
            extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1},
        )
        async for chunk in stream:
            parts += [c.delta.content or "" for c in chunk.choices if c.index == 0]
            usage = chunk.usage
        assert "".join(parts) == ANSWER
        assert usage is not None and usage.prompt_tokens > 0


async def test_the_sync_client(client: Any) -> None:
    def use() -> str:
        with openai.OpenAI(base_url=url_of(client), api_key="x") as ai:
            stream = ai.completions.create(model="tiny", prompt="XYZ", max_tokens=6, stream=True)
            return "".join(chunk.choices[0].text for chunk in stream)

    assert await asyncio.to_thread(use) == "XYZXYZ"


async def test_errors_are_the_right_exceptions(start_server: Any) -> None:
    server = await start_server("--die-after", 8, "--delay", 0.01, api_keys=("right",))

    def make(key: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=url_of(server), api_key=key, max_retries=0)

    async with make("wrong") as ai:
        with pytest.raises(openai.AuthenticationError) as unknown:
            await ai.models.list()
        assert unknown.value.code == "invalid_api_key"
    async with make("right") as ai:
        with pytest.raises(openai.NotFoundError) as missing:
            await ai.chat.completions.create(model="gpt-4", messages=HI)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            await ai.chat.completions.create(model="tiny", messages=HI, temperature=-1)
        assert (bad.value.code, bad.value.param) == ("invalid_value", "temperature")
        with pytest.raises(openai.BadRequestError) as unsupported:
            await ai.chat.completions.create(model="tiny", messages=HI, reasoning_effort="low")
        assert unsupported.value.code == "unsupported_parameter"
        assert unsupported.value.param == "reasoning_effort"
        with pytest.raises(openai.APIError) as died:
            stream = await ai.chat.completions.create(model="tiny", messages=HI, stream=True)
            async for _ in stream:
                pass
        assert died.value.code == "engine_died"
