"""The engine process's loop: messages in, steps, messages out."""

import functools
import logging
import os
import queue
import socket
import threading
from collections.abc import Iterator

import jax
import msgspec

from models.gguf_file import open_gguf
from runtime.compile_log import CompileLog
from runtime.engine import Engine
from runtime.errors import RequestError
from runtime.guidance import GuideMaker
from runtime.messages import (
    HEADER,
    MAX_MESSAGE_BYTES,
    Abort,
    AskSnapshot,
    Fatal,
    FromEngine,
    Outputs,
    Progress,
    Ready,
    Refused,
    Shutdown,
    Start,
    StartProfile,
    StopProfile,
    Submit,
    ToEngine,
    decode_to_engine,
    encode,
)
from runtime.preparation import Preparation, Prepared
from runtime.profiler import Profiler
from runtime.snapshot import take_snapshot
from runtime.start import start_engine
from runtime.text.tokenizer import build_tokenizer

logger = logging.getLogger(__name__)

EXIT_BAD_START = 2
EXIT_DEVICE = 70


class Channel:
    """The engine's end of the socket pair: a thread reads, so that steps never wait for input."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._inbox: queue.SimpleQueue[ToEngine | Prepared] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def send(self, message: FromEngine) -> None:
        """Writes a message; waits if the other side is slow."""
        self._connection.sendall(encode(message))

    def deliver(self, prepared: Prepared) -> None:
        """Puts a request whose grammar is compiled behind what has come by now."""
        self._inbox.put(prepared)

    def receive(self) -> ToEngine | Prepared:
        """The next message; waits for it."""
        return self._inbox.get()

    def received(self) -> Iterator[ToEngine | Prepared]:
        """What has come by now."""
        while True:
            try:
                yield self._inbox.get_nowait()
            except queue.Empty:
                return

    def _read(self) -> None:
        stream = self._connection.makefile("rb")
        try:
            while header := stream.read(HEADER.size):
                (size,) = HEADER.unpack(header)
                if size > MAX_MESSAGE_BYTES:
                    raise ValueError(f"a message of {size} bytes")
                self._inbox.put(decode_to_engine(stream.read(size)))
        except (OSError, ValueError, msgspec.MsgspecError):
            logger.exception("the connection to the HTTP process broke")
        # The HTTP process is gone, and nobody else may talk to us. The main thread may be compiling
        # or waiting for the device, so it cannot be asked to end.
        os._exit(0)


def run_engine(channel: Channel) -> int:
    """Serves until it is told to end; the exit code of the process."""
    first = channel.receive()
    if isinstance(first, Shutdown):  # the model could not be served
        return 0
    if not isinstance(first, Start):
        raise ValueError(f"the first message must be Start, got {type(first).__name__}")
    log = CompileLog()
    try:
        file = open_gguf(first.config.model)
        guides = GuideMaker(functools.partial(build_tokenizer, file.metadata))
        engine = start_engine(
            first.config,
            file,
            first.stop_ids,
            report=lambda stage, text, fraction: channel.send(Progress(stage, text, fraction)),
            make_guide=guides.make,
            at_once=False,
        )
    except (ValueError, OSError) as error:  # a model file that is broken is a ValueError too
        channel.send(Fatal(_one_line(error)))
        return EXIT_BAD_START
    except jax.errors.JaxRuntimeError as error:
        channel.send(Fatal(f"the device failed while starting: {_one_line(error)}{advice(error)}"))
        return EXIT_DEVICE
    channel.send(Ready(engine.info))
    try:
        serve(engine, channel, log, Preparation(guides.prepare, channel.deliver))
    except jax.errors.JaxRuntimeError as error:
        # what was donated to the failed step is gone, and with it every request
        logger.exception("the device failed")
        channel.send(Fatal(f"the device failed: {_one_line(error)}"))
        return EXIT_DEVICE
    return 0


def serve(engine: Engine, channel: Channel, log: CompileLog, preparation: Preparation) -> None:
    """Steps while there is work, waits for messages while there is none."""
    compiled_at_start = log.num_compiled
    profiler = Profiler()
    while True:
        messages = channel.received() if engine.has_work else iter([channel.receive()])
        for message in messages:
            if isinstance(message, Shutdown):
                return
            if isinstance(message, StartProfile | StopProfile):
                channel.send(profiler.take(message))
            else:
                _take(engine, channel, preparation, message)
        outputs = engine.step()
        stats = engine.stats(compilations=log.num_compiled - compiled_at_start)
        # after every step, with tokens or without: who hears nothing knows that we hang
        channel.send(Outputs(outputs, stats, engine.begun))


def _take(
    engine: Engine, channel: Channel, preparation: Preparation, message: ToEngine | Prepared
) -> None:
    match message:
        case Submit() if message.params.structured_outputs is not None:
            preparation.begin(message, message.params.structured_outputs)
        case Submit():
            _add(engine, channel, message)
        case Prepared(submit, None):
            if preparation.end(message):
                _add(engine, channel, submit)
        case Prepared(submit, RequestError() as problem):
            if preparation.end(message):
                _refuse(channel, submit, problem)
        case Prepared(_, BaseException() as mistake):
            raise mistake
        case Abort():
            for request_id in message.request_ids:
                preparation.abort(request_id)
                engine.abort(request_id)
        case AskSnapshot():
            channel.send(take_snapshot(engine.scheduler))
        case _:
            raise ValueError(f"a {type(message).__name__} message while serving")


def _add(engine: Engine, channel: Channel, submit: Submit) -> None:
    try:
        engine.add(
            submit.request_id,
            submit.prompt_ids,
            submit.params,
            seed=submit.seed,
            choice=submit.choice,
            cache_salt=submit.cache_salt,
            priority=submit.priority,
            pooling=submit.pooling,
        )
    except RequestError as error:
        _refuse(channel, submit, error)


def _refuse(channel: Channel, submit: Submit, error: RequestError) -> None:
    channel.send(Refused(submit.request_id, str(error), error.param, error.code))


def advice(error: Exception) -> str:
    """What helps where a start has failed for want of memory."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        return ""
    return (
        " (where other processes use the GPU, see nvidia-smi, or it is nearly full: lower "
        "gpu_memory_utilization)"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
