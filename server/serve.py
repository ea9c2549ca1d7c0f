"""Runs the HTTP server until a signal or the engine's end, and lets requests finish first."""

import asyncio
import logging
import signal
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from aiohttp import web

from server.access import is_loopback
from server.api_keys import ApiKeys
from server.app import ROUTES, make_app
from server.connections import GUARD
from server.errors import ShuttingDown
from server.lifecycle import LIFECYCLE, Lifecycle
from server.limits import CLOSE_SECONDS, DRAIN_SECONDS, KEEP_ALIVE_SECONDS
from server.listener import BACKLOG
from server.served_model import ModelOptions

logger = logging.getLogger(__name__)


async def serve(
    options: ModelOptions,
    listener: socket.socket,
    *,
    host: str,
    api_keys: ApiKeys | None = None,
    drain_seconds: float = DRAIN_SECONDS,
) -> int:
    """Serves on a listening socket; the exit code of the process."""
    api_keys = api_keys or ApiKeys()
    if not api_keys and not is_loopback(host):
        logger.warning(
            "ANYONE who can reach %s can use this server: it is bound beyond this machine and "
            "has no --api-key or --api-key-file",
            host,
        )
    app = make_app(options, api_keys=api_keys, host=host)
    lifecycle = app[LIFECYCLE]
    signals = Signals(api_keys)
    runner = web.AppRunner(
        app,
        # a client that leaves ends its handler, and with it its requests
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        shutdown_timeout=CLOSE_SECONDS,
    )
    await runner.setup()
    try:
        assert runner.server is not None, "there after setup"
        accepting = await app[GUARD].listen(runner.server, sock=listener, backlog=BACKLOG)
        logger.info("Starting ggjax server on %s", url_of(host, listener))
        logger.info("routes: %s", ", ".join(f"{method} {path}" for method, path, _ in ROUTES))
        await first_of(lifecycle.ended.wait(), signals.first.wait())
        if lifecycle.exit_code is None:
            await drain(lifecycle, signals, drain_seconds)
            exit_code = 0
        else:
            exit_code = lifecycle.exit_code
        accepting.close()
    finally:
        await runner.cleanup()
        signals.close()
    return exit_code


class Signals:
    """SIGTERM and SIGINT: the first asks for an end, the second for one at once.

    SIGHUP: the file of API keys is read again; without one it has no meaning of ours.
    """

    def __init__(self, keys: ApiKeys) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._keys = keys
        self._loop = asyncio.get_running_loop()
        actions = {signal.SIGTERM: self._take, signal.SIGINT: self._take}
        if keys.has_file:
            actions[signal.SIGHUP] = self._read_keys
        for number, action in actions.items():
            self._loop.add_signal_handler(number, action)
        self._numbers = tuple(actions)

    def close(self) -> None:
        for number in self._numbers:
            self._loop.remove_signal_handler(number)

    def _take(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    def _read_keys(self) -> None:
        try:
            self._keys.read()
        except ValueError as error:
            logger.error("%s; the keys stay as they were", error)
        else:
            logger.info("the API keys were read again: %d", len(self._keys))


async def drain(lifecycle: Lifecycle, signals: Signals, seconds: float) -> None:
    """Takes no new requests and waits for those that run; what is left then ends with an error."""
    lifecycle.draining = True
    logger.info(
        "shutting down: requests have %g s to finish; a second signal ends at once", seconds
    )
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await first_of(
                lifecycle.wait_until_idle(), signals.second.wait(), lifecycle.ended.wait()
            )
    if lifecycle.model is not None:
        lifecycle.model.engine.fail_all(ShuttingDown("the server has shut down"))
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await lifecycle.wait_until_idle()


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Waits until one is done and cancels the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def url_of(host: str, listener: socket.socket) -> str:
    """What to type into a browser."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"
