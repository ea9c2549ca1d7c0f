"""Says in the log how far loading is, without a line for every tensor."""

import logging
import time

from runtime.messages import Progress

logger = logging.getLogger(__name__)

PERIOD = 2.0


class ProgressLog:
    """Logs each new text at once, and a new fraction of the same text every two seconds."""

    def __init__(self) -> None:
        self._last = ("", "")
        self._when = 0.0

    def report(self, progress: Progress) -> None:
        """Takes one report of the engine."""
        what, now = (progress.stage, progress.text), time.monotonic()
        if what == self._last and now - self._when < PERIOD:
            return
        self._last, self._when = what, now
        part = "" if progress.fraction is None else f" ({progress.fraction:.0%})"
        logger.info("%s: %s%s", progress.stage, progress.text, part)
