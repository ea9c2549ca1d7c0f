"""Streams of the Python face: read, left, aborted, and other calls between."""

import itertools
import threading
from collections.abc import Generator

import pytest

from runtime.errors import RequestError
from runtime.llm import LLM
from runtime.outputs import RequestOutput
from runtime.request import SamplingParams, TokenOutput
from tests.runtime.idle import assert_idle

LONG = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)


def test_streamed_pieces_are_the_whole_answer(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    pieces = list(llm.stream("def f(x):", params))
    assert len(pieces) > 1
    assert "".join(pieces) == llm.generate("def f(x):", params)[0].outputs[0].text


def test_leaving_a_stream_frees_its_pages(llm: LLM) -> None:
    stream = llm.stream("def f(x):", SamplingParams(max_tokens=400, ignore_eos=True))
    next(stream)
    stream.close()
    assert_idle(llm)


def finish(stream: Generator[str, None, RequestOutput]) -> tuple[list[str], RequestOutput]:
    """What is left of a stream, and its result."""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def test_abort_ends_a_stream_with_what_it_has(llm: LLM) -> None:
    stream = llm.stream("def f(x):", LONG, "mine")
    first = [next(stream) for _ in range(3)]
    llm.abort(["others"])
    first.append(next(stream))
    llm.abort("mine")
    rest, result = finish(stream)
    (answer,) = result.outputs
    assert (result.request_id, answer.finish_reason) == ("mine", "abort")
    assert "".join(first + rest) == answer.text
    assert 4 <= len(answer.token_ids) < 10
    llm.abort("mine")  # has ended
    assert_idle(llm)


def test_abort_ends_what_another_thread_runs(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps = llm.engine.step, itertools.count()

    def aborted_from_elsewhere() -> list[TokenOutput]:
        if next(steps) == 5:
            thread = threading.Thread(target=llm.abort)
            thread.start()
            thread.join()
        return step()

    monkeypatch.setattr(llm.engine, "step", aborted_from_elsewhere)
    # more than there are slots: the last never began
    outputs = llm.generate(["a"] * 6, LONG, capture=["embed"])
    for output in outputs:
        (answer,) = output.outputs
        assert answer.finish_reason == "abort" and len(answer.token_ids) < 10
        assert (answer.captured is None) == (not answer.token_ids)
    assert outputs[0].outputs[0].token_ids and not outputs[-1].outputs[0].token_ids
    assert_idle(llm)


def test_calls_in_the_loop_over_a_stream_take_nothing_from_it(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
    expected = llm.generate("def f(x):", params)[0].outputs[0]
    stream = llm.stream("def f(x):", params)
    pieces = [next(stream)]
    assert llm.generate("def f(x):", params)[0].outputs[0] == expected
    pieces.append(next(stream))
    (embedding,) = llm.embed("def f(x):")
    with pytest.raises(RequestError, match="600 tokens"):
        llm.generate(["a", [5] * 600])  # type: ignore[list-item]
    rest, result = finish(stream)
    assert "".join(pieces + rest) == expected.text
    assert result.outputs[0] == expected
    assert embedding.embedding == llm.embed("def f(x):")[0].embedding
    assert_idle(llm)


def test_names_of_running_streams_are_unique(llm: LLM) -> None:
    stream = llm.stream("a", LONG, "twice")
    next(stream)
    with pytest.raises(RequestError, match="'twice' runs already"):
        next(llm.stream("a", LONG, "twice"))
    stream.close()
    assert_idle(llm)


def test_a_stream_has_one_answer(llm: LLM) -> None:
    with pytest.raises(RequestError, match="n=2"):
        next(llm.stream("a", SamplingParams(n=2)))
