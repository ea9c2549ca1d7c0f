"""Many callers in one event loop, over one engine."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from runtime.async_llm import AsyncLLM
from runtime.engine_thread import EngineThread
from runtime.errors import EngineDied, RequestError
from runtime.experiments.interventions import Add
from runtime.llm import LLM
from runtime.request import SamplingParams

PARAMS = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
LONG = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)


@pytest.fixture
async def async_llm(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncLLM]:
    """Around the model that is loaded already."""
    monkeypatch.setattr("runtime.async_llm.LLM", lambda model, **options: llm)
    monkeypatch.setattr(llm, "close", lambda: None)
    async with AsyncLLM("loaded") as running:
        yield running


async def last(outputs: AsyncIterator[Any]) -> Any:
    return [output async for output in outputs][-1]


async def test_answers_are_those_of_the_synchronous_face(llm: LLM, async_llm: AsyncLLM) -> None:
    prompts = ["def f(x):", "a", "b" * 90, "import", "return"]
    # before: the engine belongs to its thread while that has work
    expected = [output.outputs[0].text for output in llm.generate(prompts, PARAMS)]
    outputs = await asyncio.gather(*(last(async_llm.generate(p, PARAMS)) for p in prompts))
    texts = [output.outputs[0].text for output in outputs]
    assert [output.prompt for output in outputs] == prompts
    assert texts == expected


async def test_an_answer_grows_until_it_is_finished(async_llm: AsyncLLM) -> None:
    outputs = [output async for output in async_llm.generate([1, 2, 3], PARAMS, "mine")]
    assert [len(output.outputs[0].token_ids) for output in outputs] == list(range(1, 13))
    assert [output.finished for output in outputs] == [False] * 11 + [True]
    assert {output.request_id for output in outputs} == {"mine"}
    assert outputs[0].outputs[0].finish_reason is None


async def test_a_stream_of_a_chat_is_its_text(llm: LLM, async_llm: AsyncLLM) -> None:
    chat = [{"role": "user", "content": "hi"}]
    expected = llm.chat(chat, PARAMS)[0].outputs[0].text
    pieces = [piece async for piece in async_llm.stream(chat, PARAMS)]
    assert len(pieces) > 1
    assert "".join(pieces) == expected


async def test_abort_ends_an_answer(async_llm: AsyncLLM) -> None:
    async for output in async_llm.generate("a", LONG, "long"):
        if len(output.outputs[0].token_ids) == 3:
            await async_llm.abort("long")
    assert output.outputs[0].finish_reason == "abort"
    assert 3 <= len(output.outputs[0].token_ids) < 400
    await async_llm.abort("long")  # has ended


async def test_abort_takes_several_ids(async_llm: AsyncLLM) -> None:
    streams = [async_llm.generate("a", LONG, name) for name in ("x", "y", "z")]
    for stream in streams:
        await anext(stream)
    await async_llm.abort(["x", "z"])
    first, last_one = await last(streams[0]), await last(streams[2])
    assert first.outputs[0].finish_reason == last_one.outputs[0].finish_reason == "abort"
    assert (await anext(streams[1])).outputs[0].finish_reason is None
    await streams[1].aclose()


async def test_a_refused_request_takes_nothing_from_others(async_llm: AsyncLLM) -> None:
    outputs = async_llm.generate("a", PARAMS)
    first = await anext(outputs)
    with pytest.raises(RequestError, match="vocabulary"):
        await last(async_llm.generate([10**6]))
    numbers = [len(first.outputs[0].token_ids)]
    async for output in outputs:
        numbers.append(len(output.outputs[0].token_ids))
    assert numbers == list(range(1, 13))


async def test_leaving_the_loop_ends_the_request(llm: LLM, async_llm: AsyncLLM) -> None:
    outputs = async_llm.generate("a", LONG)
    await anext(outputs)
    await outputs.aclose()
    while llm.engine.has_work:
        await asyncio.sleep(0.01)
    assert llm.engine.scheduler.pool.num_used == 0


async def test_capture_works_here_too(llm: LLM, async_llm: AsyncLLM) -> None:
    output = await last(async_llm.generate([1, 2, 3], PARAMS, capture=["embed"]))
    assert output.captured["embed"].shape == (3 + 11, *llm.sites["embed"])


async def test_one_intervention_needs_no_list(llm: LLM, async_llm: AsyncLLM) -> None:
    wanted = np.zeros(llm.sites["logits"])
    wanted[7] = 1e4
    output = await last(async_llm.generate([1, 2, 3], PARAMS, interventions=Add("logits", wanted)))
    assert set(output.outputs[0].token_ids) == {7}


async def test_what_cannot_be_served_is_refused(async_llm: AsyncLLM) -> None:
    with pytest.raises(RequestError, match="vocabulary"):
        await last(async_llm.generate([10**6]))
    with pytest.raises(RequestError, match="n=2"):
        await last(async_llm.stream("a", SamplingParams(n=2)))
    first = async_llm.generate("a", LONG, "twice")
    await anext(first)
    with pytest.raises(RequestError, match="'twice' runs already"):
        await last(async_llm.generate("a", LONG, "twice"))
    await first.aclose()


class BrokenEngine:
    """Fails at its first step."""

    has_work = True

    def step(self) -> list[Any]:
        raise RuntimeError("the device is gone")


def test_a_dead_engine_answers_everyone() -> None:
    thread = EngineThread(BrokenEngine())  # type: ignore[arg-type]
    with pytest.raises(EngineDied, match="the device is gone"):
        for _ in range(1000):
            thread.call(lambda: None).result()
    thread.close()


async def test_a_dead_engine_ends_what_runs(
    async_llm: AsyncLLM, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = async_llm.generate("a", LONG)
    await anext(outputs)
    with monkeypatch.context() as patch:
        patch.setattr(llm.engine, "step", BrokenEngine().step)
        with pytest.raises(EngineDied, match="the device is gone"):
            await last(outputs)
    for request_id in list(llm.engine._requests):
        llm.engine.abort(request_id)
    while llm.engine.has_work:
        llm.engine.step()
