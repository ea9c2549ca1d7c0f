"""The Python face for event loops: notebooks and services."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from runtime.engine_thread import EngineThread
from runtime.errors import EngineDied, RequestError
from runtime.llm import LLM
from runtime.llm_prompts import Interventions, Job, Messages, Prompt
from runtime.llm_started import Started
from runtime.outputs import RequestOutput
from runtime.request import SamplingParams, TokenOutput


class AsyncLLM:
    """`LLM` with many callers at once: their requests share the engine's steps.

        async with AsyncLLM("demo") as llm:
            async for piece in llm.stream("def fib(n):"):
                print(piece, end="")

    The engine loads on entry and steps in a thread; leaving ends what still runs.

    Args:
        model, options: as for `LLM`.
    """

    def __init__(self, model: str, **options: Any):
        self._model = model
        self._options = options
        self._running: dict[str, Started] = {}

    async def __aenter__(self) -> Self:
        self._llm = await asyncio.to_thread(LLM, self._model, **self._options)
        self._thread = EngineThread(self._llm.engine)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._thread.close)
        self._llm.close()

    @property
    def llm(self) -> LLM:
        """The model behind it, for everything that runs nothing: `tokenize`, `params`, `sites`."""
        return self._llm

    async def generate(
        self,
        prompt: Prompt | Messages,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        capture: str | Sequence[str] = (),
        interventions: Interventions = (),
    ) -> AsyncIterator[RequestOutput]:
        """The answer as it grows; the last one is `finished`. Leaving the loop ends the request.

        Args:
            prompt: a text, token ids, or the messages of a chat.
            request_id: for `abort`; a number is drawn without it.
            capture, interventions: as for `LLM.generate`.

        Raises:
            RequestError: it cannot be served, or a request of this id runs already.
            EngineDied: the device failed.
        """
        job = self._llm.jobs.one(prompt, sampling_params, interventions)
        started, events = await self._start(replace(job, request_id=request_id), capture)
        try:
            if started.name in self._running:
                raise RequestError(f"request {started.name!r} runs already", param="request_id")
            self._running[started.name] = started
            answers = {choice.request_id: choice.answer for choice in started.choices}
            while not started.finished:
                event = await events.get()
                if isinstance(event, EngineDied):
                    raise event
                if not answers[event.request_id].finished:
                    answers[event.request_id].push(event)
                    yield started.result()
        finally:
            self._thread.end(started.request_ids)
            if self._running.get(started.name) is started:
                del self._running[started.name]

    async def stream(
        self,
        prompt: Prompt | Messages,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
    ) -> AsyncIterator[str]:
        """The pieces of one answer as they come; raises as `generate`."""
        if sampling_params is not None and sampling_params.n != 1:
            raise RequestError(f"stream gives one answer, got n={sampling_params.n}", param="n")
        sent = 0
        async for output in self.generate(prompt, sampling_params, request_id):
            text = output.outputs[0].text
            if len(text) > sent:
                yield text[sent:]
            sent = len(text)

    async def abort(self, request_ids: str | Collection[str]) -> None:
        """Ends requests; their answers have the finish reason "abort".

        Ids that have ended are ignored.
        """
        names = {request_ids} if isinstance(request_ids, str) else request_ids
        numbers = [
            number
            for name, started in self._running.items()
            if name in names
            for number in started.request_ids
        ]

        def abort() -> None:
            for number in numbers:
                self._llm.engine.abort(number)

        await asyncio.wrap_future(self._thread.call(abort))

    async def _start(
        self, job: Job, capture: str | Sequence[str]
    ) -> tuple[Started, asyncio.Queue[TokenOutput | EngineDied]]:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[TokenOutput | EngineDied] = asyncio.Queue()

        def start() -> Started:
            (started,) = self._llm.answers.start([job], capture=capture)
            self._thread.listen(started.request_ids, lambda event: _send(loop, events, event))
            return started

        return await asyncio.wrap_future(self._thread.call(start)), events


def _send(
    loop: asyncio.AbstractEventLoop,
    events: asyncio.Queue[TokenOutput | EngineDied],
    event: TokenOutput | EngineDied,
) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(events.put_nowait, event)
