"""The tokens of one call's requests, from the engine's reader to the one who answers the call."""

import asyncio
from collections.abc import Callable, Sequence

from runtime.request import TokenOutput
from server.errors import AnswerFailed
from server.lazy_timer import LazyTimer


class TokenStream:
    """Tokens in the order they came, taken in lots: `while (outputs := await stream.take()):`.

    A reader who is slow gets fewer and larger lots, and loses the requests beyond `max_pending`.

    Attributes:
        unfinished: ids of the requests from which more will come.
        begun: when a request left the engine's queue, by `time.monotonic`.
    """

    def __init__(
        self,
        request_ids: Sequence[int],
        *,
        abort: Callable[[Sequence[int]], None],
        max_pending: int,
    ) -> None:
        self.unfinished = set(request_ids)
        self.begun: dict[int, float] = {}
        self._abort = abort
        self._max_pending = max_pending
        self._pending: list[TokenOutput] = []
        self._error: Exception | None = None
        self._wake = asyncio.Event()
        self._timer: LazyTimer | None = None

    def put(self, output: TokenOutput) -> None:
        """Adds a token; the engine's side."""
        if self._error is not None:
            return
        self._pending.append(output)
        self._wake.set()
        if len(self._pending) > self._max_pending:
            self.fail(AnswerFailed("the answer was not read in time"))
            self.abort_all()

    def fail(self, error: Exception) -> None:
        """Ends the stream with an error; what came before it is lost."""
        self._error = error
        self._pending.clear()
        self._wake.set()

    async def take(self, idle_seconds: float | None = None) -> list[TokenOutput]:
        """What has come since; waits for something, and is empty only when all has ended, or
        (`unfinished` then tells) when nothing has come for `idle_seconds`, the same at each call.

        Raises:
            RequestError: the engine refused one of the requests.
            EngineDied: it is gone.
            AnswerFailed: it gave up on one of them, or the reader is too slow.
        """
        if not self._pending and self._error is None and self.unfinished:
            self._wake.clear()
            if idle_seconds is not None:
                if self._timer is None:
                    self._timer = LazyTimer(idle_seconds, self._wake.set)
                self._timer.start()
            await self._wake.wait()
        if self._error is not None:
            raise self._error
        taken, self._pending = self._pending, []
        for output in taken:
            if output.finish_reason is None:
                continue
            if output.finish_reason == "error":
                raise AnswerFailed(output.error or "the engine gave up on the request")
            self.unfinished.discard(output.request_id)
        return taken

    def abort(self, request_id: int) -> None:
        """Wants no more tokens of one request; those that have come are dropped."""
        self._pending = [output for output in self._pending if output.request_id != request_id]
        self.unfinished.discard(request_id)
        self._abort([request_id])

    def close(self) -> None:
        """Wants nothing more."""
        if self._timer is not None:
            self._timer.close()
        self.abort_all()

    def abort_all(self) -> None:
        """Wants no more tokens at all; a second time does nothing."""
        self._abort(sorted(self.unfinished))
        self.unfinished.clear()
