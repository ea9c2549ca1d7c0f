"""The engine process seen from the HTTP process: start, submit, tokens, abort, end."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from runtime.config import RuntimeConfig
from runtime.errors import EngineDied, Overloaded, RequestError
from runtime.messages import (
    Abort,
    AskSnapshot,
    EngineInfo,
    Fatal,
    FromEngine,
    Outputs,
    Profiled,
    Progress,
    Ready,
    Refused,
    Snapshot,
    Start,
    StartProfile,
    Stats,
    StopProfile,
    Submit,
    ToEngine,
)
from runtime.request import TokenOutput
from server.engine_exit import EXIT_ENGINE, EXIT_USAGE, EngineNotStarted
from server.engine_process import EngineProcess, start_process
from server.limits import MAX_PENDING, MAX_QUEUED, STEP_SECONDS
from server.one_answer import OneAnswer
from server.token_stream import TokenStream

ENGINE_COMMAND = (sys.executable, "-m", "runtime.engine_process")


class EngineClient:
    """One engine process and the requests it has.

    Attributes:
        info: what was loaded; None until the engine is ready.
        stats: gauges and totals after the engine's last step.
    """

    def __init__(
        self,
        command: Sequence[str] = ENGINE_COMMAND,
        *,
        step_seconds: float | None = None,
        on_step: Callable[[Stats], None] | None = None,
    ) -> None:
        """
        Args:
            step_seconds: a working engine that says nothing for so long hangs; None: by device.
            on_step: told of the stats after each step.
        """
        self.info: EngineInfo | None = None
        self._step_seconds = step_seconds
        self._on_step = on_step
        self.stats = Stats()
        self._command = command
        self._streams: dict[int, TokenStream] = {}
        self._last_id = 0
        self._process: EngineProcess | None = None
        self._profiles: deque[asyncio.Future[Profiled]] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._snapshot: OneAnswer[Snapshot] = OneAnswer(lambda: self._send(AskSnapshot()))

    async def launch(self) -> None:
        """Starts the process, which takes seconds to import what it needs."""
        self._process = await start_process(self._command)

    async def start(
        self,
        config: RuntimeConfig,
        stop_ids: Iterable[int],
        report: Callable[[Progress], None],
    ) -> EngineInfo:
        """Has the launched process load a model, and waits until it can serve.

        Raises:
            EngineNotStarted: it could not; `stop` is still to be called.
        """
        self._send(Start(config, sorted(stop_ids)))
        try:
            self.info = await self._until_ready(report)
        except EngineDied as error:
            raise EngineNotStarted(str(error), EXIT_ENGINE) from error
        self._reading = asyncio.create_task(self._read_on())
        return self.info

    async def wait_until_dead(self) -> str:
        """Waits for the engine's death, whose cause it returns. Only after `start`."""
        assert self._reading is not None
        try:
            await asyncio.shield(self._reading)
        except EngineDied as error:
            return str(error)
        raise AssertionError("reading ends with an error only")

    async def stop(self) -> None:
        """Ends the process, however far it is."""
        if self._reading is not None:
            self._reading.cancel()
        if self._process is not None:
            await self._process.stop()

    def new_id(self) -> int:
        """An id that no request had before."""
        self._last_id += 1
        return self._last_id

    @property
    def num_requests(self) -> int:
        """Requests that the engine has, waiting or running."""
        return len(self._streams)

    @asynccontextmanager
    async def generate(self, requests: Sequence[Submit]) -> AsyncIterator[TokenStream]:
        """Submits requests and gives the one stream of their tokens; what is unfinished when the
        context is left is aborted.

        Raises:
            Overloaded: too many requests wait already; none of these was taken.
            EngineDied: the engine is gone.
        """
        assert self.info is not None
        if self._reading is None or self._reading.done():
            raise EngineDied("the engine has stopped")
        if self.num_requests + len(requests) > self.info.max_num_seqs + MAX_QUEUED:
            raise Overloaded(f"{self.num_requests} requests wait already; try again later")
        stream = TokenStream(
            [request.request_id for request in requests],
            abort=self._abort,
            max_pending=MAX_PENDING * len(requests),
        )
        self._streams |= dict.fromkeys(stream.unfinished, stream)
        try:
            self._send(*requests)
            yield stream
        finally:
            stream.close()

    async def snapshot(self) -> Snapshot:
        """The engine's books, when its present step is done; who asks meanwhile gets the same.

        Raises:
            EngineDied: the engine is gone.
            ShuttingDown: the server ends.
        """
        if self._reading is None or self._reading.done():
            raise EngineDied("the engine has stopped")
        return await self._snapshot.get()

    async def profile(self, message: StartProfile | StopProfile) -> Profiled:
        """Starts a trace of the engine, or ends one and waits until it is written.

        Raises:
            EngineDied: the engine is gone.
            ShuttingDown: the server ends.
        """
        if self._reading is None or self._reading.done():
            raise EngineDied("the engine has stopped")
        answer: asyncio.Future[Profiled] = asyncio.get_running_loop().create_future()
        self._profiles.append(answer)
        self._send(message)
        return await asyncio.shield(answer)  # the engine answers, whoever has left

    def fail_all(self, error: Exception) -> None:
        """Ends every stream with an error."""
        for stream in set(self._streams.values()):
            stream.fail(error)
        self._streams.clear()
        self._snapshot.fail(error)
        for answer in self._profiles:
            answer.set_exception(error)
            answer.exception()  # looked at, for there may be nobody left
        self._profiles.clear()

    def _abort(self, request_ids: Sequence[int]) -> None:
        known = [i for i in request_ids if self._streams.pop(i, None) is not None]
        if known:
            self._send(Abort(known))

    def _send(self, *messages: ToEngine) -> None:
        assert self._process is not None
        self._process.send(*messages)

    async def _until_ready(self, report: Callable[[Progress], None]) -> EngineInfo:
        assert self._process is not None
        while True:
            match await self._process.receive():
                case Progress() as progress:
                    report(progress)
                case Ready(info=info):
                    return info
                case Fatal(message=message):
                    code = await self._process.exit_code()
                    raise EngineNotStarted(
                        message, EXIT_ENGINE if code == EXIT_ENGINE else EXIT_USAGE
                    )
                case other:
                    raise EngineDied(f"a {type(other).__name__} message before Ready")

    async def _read_on(self) -> None:
        try:
            while True:
                self._take(await self._receive_watching())
        except EngineDied as error:
            self.fail_all(error)
            raise

    def _take(self, message: FromEngine) -> None:
        match message:
            case Outputs(outputs=outputs, stats=stats, begun=begun):
                self.stats = stats
                if self._on_step is not None:
                    self._on_step(stats)
                for request_id in begun:
                    if request_id in self._streams:
                        self._streams[request_id].begun[request_id] = time.monotonic()
                self._deliver(outputs)
            case Refused(request_id=request_id, message=text, param=param, code=code):
                stream = self._streams.pop(request_id, None)
                if stream is not None:
                    stream.fail(RequestError(text, param=param, code=code))
            case Snapshot() as snapshot:
                self._snapshot.put(snapshot)
            case Profiled() as profiled:
                self._profiles.popleft().set_result(profiled)
            case Fatal(message=text):
                raise EngineDied(text)
            case Progress() | Ready():
                pass

    def _deliver(self, outputs: Sequence[TokenOutput]) -> None:
        """Hands the tokens of one step to their streams and wakes each once."""
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue  # aborted while the step ran
            stream.put(output)
            if output.finish_reason is not None:
                self._streams.pop(output.request_id, None)

    async def _receive_watching(self) -> FromEngine:
        """The next message; an engine that has work and gives no sign is killed."""
        assert self.info is not None and self._process is not None
        kind = "cpu" if "cpu" in self.info.device.lower() else "gpu"
        seconds = self._step_seconds or STEP_SECONDS[kind]
        message = asyncio.create_task(self._process.receive())
        try:
            while True:
                busy = bool(self._streams)
                await asyncio.wait({message}, timeout=seconds)
                if message.done():
                    return message.result()
                if busy and self._streams:
                    self._process.child.kill()
                    raise EngineDied(f"the engine has not finished a step for {seconds:g} s")
        finally:
            message.cancel()
