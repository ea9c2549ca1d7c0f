"""The real model over HTTP, by the official client: six streamed conversations, four at once."""

import asyncio
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from benchmarks.http_streams import free_port, wait_until_ready

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

QUESTIONS = {
    "What is the capital of France? Answer with one word.": "paris",
    "What is 2 + 3? Answer with the number only.": "5",
    "Write the Python keyword that defines a function. One word.": "def",
    "What colour is the sky on a clear day? One word.": "blue",
    "Repeat exactly: banana": "banana",
    "Name the first month of the year. One word.": "january",
}


@pytest.fixture(scope="module")
def url(model_file: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", str(model_file), "--port", str(port)]
    # as in test_accuracy.py: what is compiled for one is found by the other
    command += ["--max-model-len", "512", "--max-num-seqs", "4", "--max-num-batched-tokens", "128"]
    command += ["--dtype", "float32"]
    with subprocess.Popen(command) as process:
        try:
            wait_until_ready(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            assert process.wait(40) == 0


async def converse(client: openai.AsyncOpenAI, model: str, question: str) -> str:
    """Two streamed turns; the first answer."""
    messages = [{"role": "user", "content": question}]
    answers = []
    for follow_up in ("Thank you. Say goodbye.", None):
        stream = await client.chat.completions.create(
            model=model,
            messages=messages,
            temperature=0,
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
        )
        pieces, usage = [], None
        async for chunk in stream:
            usage = chunk.usage or usage
            pieces += [choice.delta.content or "" for choice in chunk.choices]
        assert usage is not None and usage.completion_tokens > 0
        answers.append("".join(pieces))
        messages += [
            {"role": "assistant", "content": answers[-1]},
            {"role": "user", "content": follow_up or ""},
        ]
    assert all(answers)
    return answers[0]


async def test_conversations_stream_side_by_side(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        model = (await client.models.list()).data[0].id
        answers = await asyncio.gather(*(converse(client, model, q) for q in QUESTIONS))
    right = sum(
        word in answer.lower() for word, answer in zip(QUESTIONS.values(), answers, strict=True)
    )
    # half a billion parameters know most of this
    assert right >= 5, answers


def test_nothing_was_compiled_while_serving(url: str) -> None:
    with urllib.request.urlopen(f"{url}/metrics") as response:
        lines = response.read().decode().splitlines()
    (count,) = [line.split()[-1] for line in lines if line.startswith("ggjax:compilations_total")]
    assert float(count) == 0
