"""The killable process that renders chat templates, seen from the parent."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import msgspec

from runtime.text import template_worker
from runtime.text.template_worker import RenderReply, RenderRequest
from runtime.text.worker_process import KillableWorker, WorkerClosed

DEADLINE = 1.0  # seconds a template may take
# Bytes of a reply to a request of n bytes: far above the child's own limit on what a template
# writes, as this one guards against a child that has been taken over.
REPLY_FACTOR, REPLY_EXTRA = 32, 1 << 20

_decoder = msgspec.json.Decoder(RenderReply)


class TemplateError(ValueError):
    """A chat that the template refuses or cannot render; the message is meant for the client."""


class TemplateLimitError(TemplateError):
    """A template that took too long, too much memory or wrote too much: a bomb, or broken."""


class TemplateWorker:
    """One child process that renders, one chat at a time.

    Used as `with TemplateWorker() as worker:`. `render` may be called from several threads,
    `render_async` leaves the event loop free.

    Args:
        deadline: seconds of wall time that one render may take.
    """

    def __init__(self, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._worker = KillableWorker(template_worker.__name__, deadline=deadline)
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
        reply = self._exchange(_encode(RenderRequest(template, dict(variables))))
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
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, message: bytes) -> RenderReply:
        try:
            max_bytes = REPLY_FACTOR * len(message) + REPLY_EXTRA
            return self._worker.exchange(message, max_bytes, _decoder.decode)
        except WorkerClosed:
            raise TemplateError("the template worker is closed") from None
        except TimeoutError:
            raise TemplateLimitError(
                f"the chat template took longer than {self._deadline:g} s"
            ) from None
        except ConnectionError:
            raise TemplateLimitError("the chat template ended its worker") from None


def _encode(request: RenderRequest) -> bytes:
    try:
        return msgspec.json.encode(request)
    except UnicodeEncodeError:
        raise TemplateError("the chat holds a lone surrogate") from None
    except (TypeError, OverflowError, RecursionError) as error:
        raise TemplateError(f"the chat is not JSON: {error}") from None
