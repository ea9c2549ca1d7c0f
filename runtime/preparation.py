"""Compiles the grammars of new requests beside the steps, so that no step waits for one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from runtime.messages import Submit
from runtime.structured_outputs import StructuredOutputs

NUM_THREADS = 2  # one grammar that takes long does not hold up the next


@dataclass(frozen=True)
class Prepared:
    """A request whose grammar is compiled, or why that failed."""

    submit: Submit
    error: BaseException | None


class Preparation:
    """Requests on their way to the engine.

    Args:
        prepare: compiles; called in threads.
        deliver: takes each request when it is ready; called in threads.
    """

    def __init__(
        self,
        prepare: Callable[[StructuredOutputs], None],
        deliver: Callable[[Prepared], None],
    ) -> None:
        self._prepare = prepare
        self._deliver = deliver
        self._wanted: set[int] = set()
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="grammar")

    def begin(self, submit: Submit, wanted: StructuredOutputs) -> None:
        """Starts to compile; the request is delivered later."""
        self._wanted.add(submit.request_id)

        def deliver(future: Future[None]) -> None:
            self._deliver(Prepared(submit, future.exception()))

        self._threads.submit(self._prepare, wanted).add_done_callback(deliver)

    def end(self, prepared: Prepared) -> bool:
        """Takes a delivered request off the books; whether it is still wanted."""
        request_id = prepared.submit.request_id
        is_wanted = request_id in self._wanted
        self._wanted.discard(request_id)
        return is_wanted

    def abort(self, request_id: int) -> None:
        """The request is wanted no more; an id that is not here is ignored."""
        self._wanted.discard(request_id)
