"""A killable process for work on input that may be hostile, seen from the parent."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

import runtime
from runtime.text.worker_child import receive, send

START_DEADLINE = 20.0  # seconds the child may take to start; 0.2 is usual
MAX_READY_BYTES = 1 << 20
# Our packages come last on the child's path, so that nothing there stands in for Python's own.
ROOT = str(Path(runtime.__file__).resolve().parents[1])
BOOT = """
import runpy, sys
sys.path.append(sys.argv[1])
runpy.run_module(sys.argv[2], {}, "__main__")
"""


class WorkerClosed(RuntimeError):
    """The worker was closed."""


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    channel: socket.socket

    def kill(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()


class KillableWorker:
    """One child process, one request at a time; killed past the deadline and started anew.

    May be used from several threads; close it when done.

    Args:
        module: what the child runs; it calls `runtime.text.worker_child.run`.
        deadline: seconds of wall time that one request may take.
    """

    def __init__(self, module: str, *, deadline: float) -> None:
        self._module = module
        self._deadline = deadline
        self._lock = threading.Lock()
        self._child: _Child | None = _start(module)
        self._child_is_ready = False

    def exchange[T](self, message: bytes, max_bytes: int, decode: Callable[[bytes], T]) -> T:
        """The reply to a message.

        Args:
            max_bytes: the longest reply; the child may have been taken over.
            decode: makes the reply of its bytes; may raise `msgspec.DecodeError`.

        Raises:
            TimeoutError: the deadline has passed.
            ConnectionError: the child has ended, or what it said is no reply.
            WorkerClosed: `close` was called.
        """
        with self._lock:
            if self._child is None:
                raise WorkerClosed
            try:
                return decode(self._reply(self._child.channel, message, max_bytes))
            except (TimeoutError, ConnectionError):
                self._restart(self._child)
                raise
            except msgspec.DecodeError as error:
                self._restart(self._child)
                raise ConnectionResetError("no reply") from error

    def close(self) -> None:
        """Ends the child."""
        with self._lock:
            if self._child is not None:
                self._child.kill()
            self._child = None

    def _reply(self, channel: socket.socket, message: bytes, max_bytes: int) -> bytes:
        if not self._child_is_ready:
            # Its start is not the request's time.
            channel.settimeout(START_DEADLINE)
            _next(channel, MAX_READY_BYTES)
            self._child_is_ready = True
        channel.settimeout(self._deadline)
        send(channel, message)
        return _next(channel, max_bytes)

    def _restart(self, child: _Child) -> None:
        child.kill()
        self._child = _start(self._module)
        self._child_is_ready = False


def _next(channel: socket.socket, max_bytes: int) -> bytes:
    message = receive(channel, max_bytes)
    if message is None:
        raise ConnectionResetError("the worker has ended")
    return message


def _start(module: str) -> _Child:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            # -I: nothing of the current directory or the environment is imported.
            [sys.executable, "-I", "-c", BOOT, ROOT, module],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},  # no tokens and keys where hostile input is worked on
            cwd="/",
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
    return _Child(process, ours)
