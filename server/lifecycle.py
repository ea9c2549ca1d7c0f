"""Where the server stands: loading, serving, draining, or ended with an exit code."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from server.errors import unavailable
from server.served_model import ServedModel


class Lifecycle:
    """One value for every route to ask, and for the main task to wait on.

    Attributes:
        model: what is served, once it is ready.
        draining: no new requests are taken; those that run may finish.
        num_active: requests that are being answered.
        exit_code: set when the server cannot go on.
    """

    def __init__(self) -> None:
        self.model: ServedModel | None = None
        self.draining = False
        self.exit_code: int | None = None
        self.ended = asyncio.Event()
        self.num_active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_ready(self) -> bool:
        return self.model is not None and not self.draining and self.exit_code is None

    def require_model(self) -> ServedModel:
        """The model, for a new request.

        Raises:
            ApiError: 503, as it is not there yet or no longer.
        """
        if self.exit_code is not None:
            raise unavailable("engine_died", "the engine has stopped", Connection="close")
        if self.draining:
            raise unavailable("shutting_down", "the server is shutting down", Connection="close")
        if self.model is None:
            raise unavailable("model_loading", "the model is loading")
        return self.model

    def end(self, exit_code: int) -> None:
        """The server cannot go on."""
        self.exit_code = exit_code
        self.ended.set()

    @contextmanager
    def request(self) -> Iterator[ServedModel]:
        """Counts a request, so that draining can wait for it."""
        model = self.require_model()
        self.num_active += 1
        self._idle.clear()
        try:
            yield model
        finally:
            self.num_active -= 1
            if self.num_active == 0:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        """Waits for the last request to end."""
        await self._idle.wait()


LIFECYCLE = web.AppKey("lifecycle", Lifecycle)
