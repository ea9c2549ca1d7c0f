"""A question that is asked once, however many wait for its answer."""

import asyncio
from collections.abc import Callable


class OneAnswer[Value]:
    """Whoever calls `get` while an answer is under way waits for that one.

    Args:
        ask: puts the question; the answer comes through `put` or `fail`.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._answer: asyncio.Future[Value] | None = None

    async def get(self) -> Value:
        """The answer, or the error that `fail` was given."""
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            self._ask()
        return await asyncio.shield(self._answer)  # one who leaves takes it from nobody

    def put(self, value: Value) -> None:
        """Answers all who wait."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.set_result(value)

    def fail(self, error: Exception) -> None:
        """Fails all who wait."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.set_exception(error)
            answer.exception()  # looked at, for there may be nobody left
