"""A timer that is put off often and fires seldom, at next to no cost for putting it off."""

import asyncio
from collections.abc import Callable


class LazyTimer:
    """Calls `fire` once `seconds` have passed since the last `start`, unless stopped.

    `asyncio.timeout` makes and cancels a handle each time it is entered; here the one handle looks
    when it is called whether it is time, and else waits for the rest. Close it when done.
    """

    def __init__(self, seconds: float, fire: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._fire = fire
        self._due: float | None = None
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to wait, anew."""
        self._due = self._loop.time() + self._seconds
        if self._handle is None:
            self._handle = self._loop.call_at(self._due, self._look)

    def stop(self) -> None:
        """Does not fire until started again."""
        self._due = None

    def close(self) -> None:
        """Never fires again."""
        self._due = None
        if self._handle is not None:
            self._handle.cancel()

    def _look(self) -> None:
        self._handle = None
        if self._due is None:
            return
        if self._loop.time() < self._due:
            self._handle = self._loop.call_at(self._due, self._look)
            return
        self._due = None
        self._fire()
