"""Says how far loading is: a bar on a terminal, elsewhere a few lines in the log."""

import logging
import time
from typing import Self

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TaskID

from runtime.messages import Progress

logger = logging.getLogger(__name__)

PERIOD = 2.0


class ProgressLog:
    """Logs each new text at once, and a new fraction of the same text every two seconds.

    Args:
        console: where the bar is drawn, if that is a terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._bar = Bar(console=console, transient=True) if console.is_terminal else None
        self._task: TaskID | None = None
        self._last = ("", "")
        self._when = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_bar()

    def report(self, progress: Progress) -> None:
        """Takes one report of the engine."""
        if self._bar is not None and progress.fraction is not None:
            self._draw(self._bar, progress.text, progress.fraction)
            return
        what, now = (progress.stage, progress.text), time.monotonic()
        if what == self._last and now - self._when < PERIOD:
            return
        self._last, self._when = what, now
        part = "" if progress.fraction is None else f" ({progress.fraction:.0%})"
        logger.info("%s: %s%s", progress.stage, progress.text, part)

    def _draw(self, bar: Bar, text: str, fraction: float) -> None:
        if self._task is None:
            bar.start()
            self._task = bar.add_task(text, total=1.0)
        bar.update(self._task, description=text, completed=fraction)
        if fraction >= 1:
            self._end_bar()

    def _end_bar(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._bar.stop()
            self._task = None
