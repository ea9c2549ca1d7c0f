"""Loading is a bar where somebody watches, and a few lines where nobody does."""

import io
import logging

import pytest
from rich.console import Console

from runtime.messages import Progress
from server.progress_log import ProgressLog

STEPS = [Progress("load", "loading", i / 10) for i in range(11)]


def test_a_terminal_gets_a_bar_and_no_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    out = io.StringIO()
    with ProgressLog(Console(file=out, force_terminal=True)) as log:
        for step in STEPS[:5]:
            log.report(step)
        log.report(Progress("compile", "compiling", None))
    assert "loading" in out.getvalue() and "%" in out.getvalue()
    assert [record.getMessage() for record in caplog.records] == ["compile: compiling"]


def test_a_file_gets_a_line_for_a_text_and_not_for_each_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with ProgressLog(Console(file=io.StringIO())) as log:
        for step in STEPS:
            log.report(step)
        log.report(Progress("compile", "compiling", None))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["load: loading (0%)", "compile: compiling"]
