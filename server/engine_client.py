"""The engine process seen from the HTTP process: start, submit, tokens, abort, end."""

import asyncio
import logging
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import msgspec

from runtime.config import RuntimeConfig
from runtime.errors import EngineDied, Overloaded, RequestError
from runtime.messages import (
    HEADER,
    MAX_MESSAGE_BYTES,
    Abort,
    AskSnapshot,
    EngineInfo,
    Fatal,
    FromEngine,
    Outputs,
    Progress,
    Ready,
    Refused,
    Shutdown,
    Snapshot,
    Start,
    Stats,
    Submit,
    ToEngine,
    decode_from_engine,
    encode,
)
from runtime.request import TokenOutput
from server.engine_exit import EXIT_ENGINE, EXIT_USAGE, EngineNotStarted, ending
from server.limits import ENGINE_EXIT_SECONDS, MAX_PENDING, MAX_QUEUED, STEP_SECONDS
from server.one_answer import OneAnswer
from server.token_stream import TokenStream

logger = logging.getLogger(__name__)

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
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._snapshot: OneAnswer[Snapshot] = OneAnswer(lambda: self._send(AskSnapshot()))

    async def start(
        self,
        config: RuntimeConfig,
        stop_ids: Iterable[int],
        report: Callable[[Progress], None],
    ) -> EngineInfo:
        """Starts the process and waits until everything is compiled.

        Raises:
            EngineNotStarted: it could not; `stop` is still to be called.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is the parent's to handle: it lets requests finish
            )
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
        if self._writer is not None:
            self._send(Shutdown())
            self._writer.close()  # the end of the stream ends a busy engine as well
        if self._process is not None:
            try:
                async with asyncio.timeout(ENGINE_EXIT_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                logger.warning("the engine process does not end; killing it")
                self._process.kill()
                await self._process.wait()

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
            stream.abort_all()

    async def snapshot(self) -> Snapshot:
        """The engine's books, when its present step is done; who asks meanwhile gets the same.

        Raises:
            EngineDied: the engine is gone.
            ShuttingDown: the server ends.
        """
        if self._reading is None or self._reading.done():
            raise EngineDied("the engine has stopped")
        return await self._snapshot.get()

    def fail_all(self, error: Exception) -> None:
        """Ends every stream with an error."""
        for stream in set(self._streams.values()):
            stream.fail(error)
        self._streams.clear()
        self._snapshot.fail(error)

    def _abort(self, request_ids: Sequence[int]) -> None:
        known = [i for i in request_ids if self._streams.pop(i, None) is not None]
        if known:
            self._send(Abort(known))

    def _send(self, *messages: ToEngine) -> None:
        assert self._writer is not None
        # a dead engine is found by the reader, which then fails every stream
        if not self._writer.is_closing():
            self._writer.write(b"".join(map(encode, messages)))

    async def _until_ready(self, report: Callable[[Progress], None]) -> EngineInfo:
        while True:
            match await self._receive():
                case Progress() as progress:
                    report(progress)
                case Ready(info=info):
                    return info
                case Fatal(message=message):
                    code = await self._exit_code()
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
        message = asyncio.create_task(self._receive())
        try:
            while True:
                busy = bool(self._streams)
                await asyncio.wait({message}, timeout=seconds)
                if message.done():
                    return message.result()
                if busy and self._streams:
                    self._process.kill()
                    raise EngineDied(f"the engine has not finished a step for {seconds:g} s")
        finally:
            message.cancel()

    async def _receive(self) -> FromEngine:
        assert self._reader is not None
        try:
            (size,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            if size > MAX_MESSAGE_BYTES:
                raise EngineDied(f"a message of {size} bytes came from the engine")
            return decode_from_engine(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            code = await self._exit_code()
            raise EngineDied(f"the engine process {ending(code)}") from None
        except (msgspec.MsgspecError, struct.error) as error:
            raise EngineDied(f"a broken message came from the engine: {error}") from error

    async def _exit_code(self) -> int | None:
        """How the process ended; None if it has closed its socket and goes on."""
        assert self._process is not None
        try:
            async with asyncio.timeout(ENGINE_EXIT_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            return None
