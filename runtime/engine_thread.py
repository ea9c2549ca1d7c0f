"""Steps an engine in a thread of its own, for callers in an event loop."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from runtime.engine import Engine
from runtime.errors import EngineDied
from runtime.request import TokenOutput

type Sink = Callable[[TokenOutput | EngineDied], None]


class EngineThread:
    """Owns the engine: whatever touches it is called here, between two steps.

    After an error of the device every request ends with `EngineDied`, and so does each new call.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._sinks: dict[int, Sink] = {}
        self._died: EngineDied | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def call[T](self, function: Callable[[], T]) -> Future[T]:
        """Runs a function in the thread; its result, or its exception."""
        future: Future[T] = Future()

        def run() -> None:
            if self._died is not None:
                future.set_exception(self._died)
                return
            try:
                future.set_result(function())
            except Exception as error:  # handed to the caller, who raises it
                future.set_exception(error)

        self._calls.put(run)
        return future

    def listen(self, request_ids: list[int], sink: Sink) -> None:
        """Sends what these requests give to `sink`; within `call`."""
        self._sinks |= dict.fromkeys(request_ids, sink)

    def end(self, request_ids: list[int]) -> None:
        """Ends requests, whether they still run or not; returns at once."""

        def run() -> None:
            for request_id in request_ids:
                self._sinks.pop(request_id, None)
                self._engine.abort(request_id)

        self.call(run)

    def close(self) -> None:
        """Ends the thread after the step that runs."""
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            # without work there is nothing to do but wait for a call
            busy = self._died is None and self._engine.has_work
            while not busy or not self._calls.empty():
                call = self._calls.get()
                if call is None:
                    return
                call()
                busy = self._died is None and self._engine.has_work
            self._step()

    def _step(self) -> None:
        try:
            outputs = self._engine.step()
        except Exception as error:  # the device is lost: everyone must hear of it
            self._died = EngineDied(f"the engine failed: {error}")
            for sink in self._sinks.values():
                sink(self._died)
            self._sinks.clear()
            return
        for output in outputs:
            if output.request_id in self._sinks:
                self._sinks[output.request_id](output)
