"""Keys from the command line and from a file that changes."""

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from server.api_keys import ApiKeys
from server.serve import Signals


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("one\n\n  two  \n")
    path.chmod(0o600)
    return path


def test_a_file_holds_one_key_a_line(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = ApiKeys(["given", "one"], file)
    assert len(keys) == 3
    names = {keys.match(key) for key in ("given", "one", "two")}
    assert len(names) == 3 and None not in names
    assert [keys.match(key) for key in ("", "three", "on", "one\n", "é\udcff")] == [None] * 5
    assert not caplog.records


def test_reading_again_takes_and_gives_keys(file: Path) -> None:
    keys = ApiKeys(["given"], file)
    file.write_text("two\nthree\n")
    before = keys.match("two")
    keys.read()
    assert keys.match("one") is None
    assert keys.match("three") and keys.match("given")
    assert keys.match("two") == before  # a key's place in the file is not its name


def test_a_file_that_others_can_read_is_a_warning(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.chmod(0o640)
    ApiKeys(file=file)
    assert "chmod 600" in caplog.text
    assert "one" not in caplog.text.replace(str(file), "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"\n \n", "there is no API key"), (b"\xff\xfe", "no UTF-8 text")],
)
def test_a_file_without_keys_is_refused_and_changes_nothing(
    file: Path, content: bytes | None, reason: str
) -> None:
    keys = ApiKeys(file=file)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        keys.read()
    assert keys.match("one")
    with pytest.raises(ValueError, match=reason):
        ApiKeys(file=file)


def test_an_empty_key_is_refused() -> None:
    with pytest.raises(ValueError, match="an API key is empty"):
        ApiKeys(["a", ""])


async def test_a_hangup_reads_the_file_again(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    keys = ApiKeys(file=file)
    signals = Signals(keys)
    try:
        file.write_text("three\n")
        await hang_up()
        assert keys.match("three") and not keys.match("one")
        file.unlink()
        await hang_up()
        assert keys.match("three")
    finally:
        signals.close()
    assert "the API keys were read again: 1" in caplog.text
    assert "the keys stay as they were" in caplog.text


async def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.05)


async def test_without_keys_anyone_may_ask(client: Any) -> None:
    assert (await client.get("/v1/models")).status == 200
