"""`ggjax run`: one answer, or a conversation."""

import asyncio
import signal
from typing import Any

import pytest


async def test_run_answers_in_the_terminal(
    fake_options: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from runtime.request import SamplingParams
    from server.terminal import converse

    params = SamplingParams(max_tokens=100)
    assert await converse(fake_options(), "hello", params) == 0
    assert capsys.readouterr().out == "system\nYou are a helpful assistant.\n"
    assert await converse(fake_options("--fatal-at-start", "no"), "hello", params) == 2
    assert await converse(fake_options("--die-after", 2), "hello", params) == 70
    assert await converse(fake_options(), "hello" * 1000, params) == 2


async def test_run_chats_until_the_input_ends(
    fake_options: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.request import SamplingParams
    from server.terminal import converse

    lines = iter(["hello", "  ", "x" * 5000, "again"])

    def read(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert await converse(fake_options(), None, SamplingParams(max_tokens=100)) == 0
    found = capsys.readouterr()
    assert found.out.count("You are a helpful assistant.") == 2
    assert "the prompt has" in found.err
    asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
