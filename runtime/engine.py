"""The engine: takes requests, steps, gives tokens. Synchronous, one step ahead of the device."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import jax

from runtime.buckets import Buckets
from runtime.errors import RequestError
from runtime.messages import EngineInfo, Stats
from runtime.model_runner import PendingStep
from runtime.request import Request, SamplingParams, TokenOutput, answer_room
from runtime.scheduler import Scheduler
from runtime.slots import MAX_BANNED
from runtime.step_input import StepInput, StepShape, make_step_input
from runtime.step_plan import SampledToken, StepPlan


class Runner(Protocol):
    """What the engine needs of a model: `runtime.model_runner.ModelRunner`, or a stand-in."""

    def start(self, step: StepInput) -> PendingStep: ...

    def read(self, plan: StepPlan, step: PendingStep) -> list[SampledToken]: ...


@dataclass
class _Totals:
    """What has been done so far: fields of `Stats`."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    steps: int = 0
    padding_tokens: int = 0
    step_seconds: float = 0.0


@dataclass(frozen=True)
class _Started:
    """A step whose results have not been read."""

    plan: StepPlan
    step: PendingStep
    bucket: str


class Engine:
    """Requests in, tokens out; the order of the four lines of `step` is the whole design.

    Attributes:
        begun: ids of the requests that left the queue for the first time in the last step.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        *,
        buckets: Buckets,
        shape: StepShape,
        info: EngineInfo,
        stop_ids: Sequence[int],
    ):
        """`stop_ids`: tokens of the model that end an answer."""
        self.scheduler = scheduler
        self.info = info
        self.runner = runner
        self.buckets = buckets
        self.shape = shape
        self.begun: list[int] = []
        self._stop_ids = frozenset(stop_ids)
        self._requests: dict[int, Request] = {}
        self._ended: list[TokenOutput] = []
        self._started: _Started | None = None
        self._totals = _Totals()
        self._last_read = time.monotonic()
        self._last_bucket = ""

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self.scheduler.has_work or self._started or self._ended)

    def add(
        self,
        request_id: int,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        seed: int = 0,
        choice: int = 0,
        cache_salt: str = "",
    ) -> None:
        """Queues a request; its tokens come from `step` under its id.

        Raises:
            RequestError: it can never be answered; the message has the numbers.
        """
        if request_id in self._requests:
            raise RequestError(f"request {request_id} runs already", param="request_id")
        self._check_ids(prompt_ids, "prompt")
        self._check_ids(params.stop_token_ids, "stop_token_ids")
        self._check_ids(params.logit_bias, "logit_bias")
        room = answer_room(
            len(prompt_ids),
            params.max_tokens,
            max_model_len=self.info.max_model_len,
            kv_tokens=self.info.kv_tokens,
        )
        ends = frozenset(params.stop_token_ids)
        request = Request(
            request_id=request_id,
            prompt_ids=list(prompt_ids),
            params=params,
            max_tokens=room,
            stop_ids=ends if params.ignore_eos else ends | self._stop_ids,
            seed=seed,
            choice=choice,
            cache_salt=cache_salt,
        )
        if len(request.stop_ids) > MAX_BANNED:
            raise RequestError(
                f"at most {MAX_BANNED} tokens can end an answer, got {len(request.stop_ids)} "
                "with those of the model",
                param="stop_token_ids",
            )
        self.scheduler.add(request)
        self._requests[request_id] = request

    def abort(self, request_id: int) -> None:
        """Ends a request; its pages are free for the next step. An id that has ended is ignored."""
        request = self._requests.pop(request_id, None)
        if request is not None:
            ended = self.scheduler.abort(request)
            if ended is not None:
                self._ended.append(ended)

    def step(self) -> list[TokenOutput]:
        """Starts the next step, then reads the one before it.

        Nothing compiles here: a program that is missing raises.
        """
        with jax.no_tracing():
            plan = self.scheduler.schedule()
            self.begun = []
            started = self._start(plan) if plan is not None else None
            outputs = self._ended + self._read(self._started)
            self._started, self._ended = started, []
        for output in outputs:
            if output.finish_reason is not None:
                self._requests.pop(output.request_id, None)
        return outputs

    def stats(self, *, compilations: int = 0) -> Stats:
        """Gauges and totals after the last step."""
        scheduler = self.scheduler
        return Stats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_used_pages=scheduler.pool.num_used,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            preemptions=scheduler.num_preemptions,
            compilations=compilations,
            bucket=self._last_bucket,
            **vars(self._totals),
        )

    def _check_ids(self, ids: Sequence[int] | dict[int, float], param: str) -> None:
        # an id past the vocabulary would be clamped on the device, to somebody else's token
        vocab_size = self.info.vocab_size
        for token_id in ids:
            if not 0 <= token_id < vocab_size:
                raise RequestError(
                    f"token id {token_id} is not in the vocabulary of {vocab_size}", param=param
                )

    def _start(self, plan: StepPlan) -> _Started:
        step = make_step_input(plan, self.buckets, self.shape)
        started = _Started(plan, self.runner.start(step), step.bucket.name)
        self.begun = [
            item.request.request_id
            for item in plan.scheduled
            if item.admitted and not item.request.num_preemptions
        ]
        self._totals.prompt_tokens += sum(item.num_tokens for item in plan.chunks)
        self._totals.generation_tokens += len(plan.samples)
        self._totals.steps += 1
        self._totals.padding_tokens += step.num_padding
        return started

    def _read(self, started: _Started | None) -> list[TokenOutput]:
        self._last_bucket = "" if started is None else started.bucket
        if started is None:
            self._last_read = time.monotonic()
            return []
        tokens = self.runner.read(started.plan, started.step)
        now = time.monotonic()
        self._totals.step_seconds += now - self._last_read
        self._last_read = now
        return self.scheduler.update(started.plan, tokens)
