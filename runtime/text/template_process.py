"""The killable process that renders chat templates, seen from the parent."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import msgspec

from runtime.text import template_worker
from runtime.text.template_worker import RenderReply, RenderRequest, receive, send

DEADLINE = 1.0  # seconds a template may take
START_DEADLINE = 20.0  # seconds the child may take to start; 0.2 is usual
# Bytes of a reply to a request of n bytes: far above the child's own limit on what a template
# writes, as this one guards against a child that has been taken over.
REPLY_FACTOR, REPLY_EXTRA = 32, 1 << 20


class TemplateError(ValueError):
    """A chat that the template refuses or cannot render; the message is meant for the client."""


class TemplateLimitError(TemplateError):
    """A template that took too long, too much memory or wrote too much: a bomb, or broken."""


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    channel: socket.socket

    def kill(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()


class TemplateWorker:
    """One child process, one request at a time; killed past the deadline and started anew.

    Used as `with TemplateWorker() as worker:`. `render` may be called from several threads,
    `render_async` leaves the event loop free.

    Args:
        deadline: seconds of wall time that one render may take.
    """

    def __init__(self, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._lock = threading.Lock()
        self._child: _Child | None = _start()
        self._child_is_ready = False
        # Its one thread is the queue, so that waiting chats do not fill the loop's own threads.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="chat-template")

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """The text of `template` with `variables`.

        Args:
            variables: what JSON can carry.

        Raises:
            TemplateError: the template refused or failed; its own message.
            TemplateLimitError: it exceeded the deadline, the memory or the output limit.
        """
        message = _encode(RenderRequest(template, dict(variables)))
        with self._lock:
            reply = self._exchange(message)
        if reply.outcome == "rendered":
            return reply.text
        if reply.outcome == "limit":
            raise TemplateLimitError(f"the chat template {reply.text}")
        by_itself = reply.outcome == "refused"
        raise TemplateError(reply.text if by_itself else f"the chat template failed: {reply.text}")

    async def render_async(self, template: str, variables: Mapping[str, Any]) -> str:
        """`render` without blocking the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self.render, template, variables)

    def close(self) -> None:
        """Ends the child; a render afterwards is refused."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            if self._child is not None:
                self._child.kill()
            self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _exchange(self, message: bytes) -> RenderReply:
        if self._child is None:
            raise TemplateError("the template worker is closed")
        try:
            if not self._child_is_ready:
                # Its start is not the template's time.
                self._child.channel.settimeout(START_DEADLINE)
                _reply(receive(self._child.channel, REPLY_EXTRA))
                self._child_is_ready = True
            self._child.channel.settimeout(self._deadline)
            send(self._child.channel, message)
            return _reply(receive(self._child.channel, REPLY_FACTOR * len(message) + REPLY_EXTRA))
        except TimeoutError:
            self._restart()
            raise TemplateLimitError(
                f"the chat template took longer than {self._deadline:g} s"
            ) from None
        except (ConnectionError, msgspec.DecodeError):
            self._restart()
            raise TemplateLimitError("the chat template ended its worker") from None

    def _restart(self) -> None:
        assert self._child is not None
        self._child.kill()
        self._child = _start()
        self._child_is_ready = False


def _start() -> _Child:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            # -I: nothing of the current directory or the environment is imported.
            [sys.executable, "-I", template_worker.__file__],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},  # no tokens and keys where a hostile template runs
            cwd="/",
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
    return _Child(process, ours)


def _encode(request: RenderRequest) -> bytes:
    try:
        return msgspec.json.encode(request)
    except UnicodeEncodeError:
        raise TemplateError("the chat holds a lone surrogate") from None
    except (TypeError, OverflowError, RecursionError) as error:
        raise TemplateError(f"the chat is not JSON: {error}") from None


def _reply(message: bytes | None) -> RenderReply:
    if message is None:
        raise ConnectionResetError("the template worker has ended")
    return msgspec.json.decode(message, type=RenderReply)
