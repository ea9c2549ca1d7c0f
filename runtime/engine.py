"""The engine: takes requests, steps, gives tokens. Synchronous, one step ahead of the device."""

import time
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax

from runtime.buckets import Bucket, Buckets
from runtime.engine_request import Pooling, Request
from runtime.errors import RequestError, UnsupportedParameter
from runtime.experiments.interventions import Shapes
from runtime.experiments.probe import Probe
from runtime.experiments.pure_model import PureModel
from runtime.guide import Guide, MakeGuide
from runtime.kv_snapshot import KVSnapshot
from runtime.masks import fill_masks
from runtime.messages import EngineInfo, Stats
from runtime.request import SamplingParams, TokenOutput, answer_room
from runtime.runner import Runner
from runtime.scheduler import Scheduler
from runtime.slots import MAX_BANNED
from runtime.step_input import StepInput, StepShape, make_step_input
from runtime.step_plan import StepPlan
from runtime.structured_outputs import StructuredOutputs


@dataclass
class _Totals:
    """What has been done so far: fields of `Stats`."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    steps: int = 0
    padding_tokens: int = 0
    step_seconds: float = 0.0


@dataclass(frozen=True)
class _Forwarded:
    """A step of which nothing is chosen yet."""

    plan: StepPlan
    step: StepInput
    hidden: Any  # the runner's


@dataclass(frozen=True)
class _Started:
    """A step whose results have not been read."""

    plan: StepPlan
    step: Any  # the runner's
    bucket: str


class Engine:
    """Requests in, tokens out; the order of the lines of `step` is the whole design.

    Attributes:
        begun: ids of the requests that left the queue for the first time in the last step.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner[Any, Any],
        *,
        buckets: Buckets,
        shape: StepShape,
        info: EngineInfo,
        stop_ids: Sequence[int],
        make_guide: MakeGuide | None = None,
        sites: Shapes,
        pure_model: PureModel,
        ready: Container[Bucket] | None = None,
    ):
        """The engine, without requests.

        Args:
            stop_ids: tokens of the model that end an answer.
            make_guide: for requests with structured outputs; None refuses them.
            sites: what a probe can name.
            pure_model: the weights as a function.
            ready: shapes of steps that there are programs for, by and by; None: all.
        """
        self.sites = sites
        self.pure_model = pure_model
        # requests wait and nothing runs: pages that they need are held elsewhere
        self.is_stuck = False
        self.scheduler = scheduler
        self.info = info
        self.runner = runner
        self.buckets = buckets
        self.shape = shape
        self.begun: list[int] = []
        self._ready = ready
        self._stop_ids = frozenset(stop_ids)
        self._make_guide = make_guide
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
        priority: int = 0,
        pooling: str | None = None,
        probe: Probe | None = None,
        origin: KVSnapshot | None = None,
        kept: list[KVSnapshot] | None = None,
        scored_from: int = 1,
    ) -> None:
        """Queues a request; its tokens come from `step` under its id.

        Args:
            priority: lower is served earlier, and is the last to give its pages up.
            pooling: "last" or "mean": ends with one output that has the final hidden state of the
                prompt's last token, or their mean; `params` do not matter then.
            probe: what an experiment reads and changes in it.
            origin: a context that begins the prompt, to continue from.
            kept: receives the request's own context when it ends.
            scored_from: with `prompt_logprobs`, the first token of the prompt that is scored; what
                is before it may come from the prefix cache.

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
            1 if pooling else params.max_tokens,
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
            priority=priority,
            pooling=_checked_pooling(pooling),
            guide=self._guide(params.structured_outputs),
            probe=probe,
            origin=origin,
            kept=kept,
            num_reported=scored_from - 1,
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

        Where an answer is guided, what may come next follows from the token before: that is read
        between the two programs of the next step, while its forward runs.

        Nothing compiles here: a program that is missing raises.
        """
        with jax.no_tracing():
            plan = self.scheduler.schedule()
            self.begun = []
            forwarded = self._forward(plan) if plan is not None else None
            self.is_stuck = not (forwarded or self._started) and bool(self.scheduler.waiting)
            if plan is not None and plan.is_guided:
                outputs = self._ended + self._read(self._started)
                self._started = self._sample(forwarded)
            else:
                before, self._started = self._started, self._sample(forwarded)
                outputs = self._ended + self._read(before)
            self._ended = []
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
            prefix_queries=scheduler.pages.prefix_queries,
            prefix_hits=scheduler.pages.prefix_hits,
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

    def _guide(self, wanted: StructuredOutputs | None) -> Guide | None:
        if wanted is None:
            return None
        if self._make_guide is None:
            raise UnsupportedParameter(
                "this engine cannot constrain answers", param="structured_outputs"
            )
        return self._make_guide(wanted)

    def _forward(self, plan: StepPlan) -> _Forwarded:
        step = make_step_input(plan, self.buckets, self.shape, self.sites, self._ready)
        hidden = self.runner.forward(step)
        self.begun = [
            item.request.request_id for item in plan.admitted if not item.request.num_preemptions
        ]
        self._totals.prompt_tokens += plan.num_prompt_tokens
        self._totals.generation_tokens += len(plan.samples)
        self._totals.steps += 1
        self._totals.padding_tokens += step.num_padding
        return _Forwarded(plan, step, hidden)

    def _sample(self, forwarded: _Forwarded | None) -> _Started | None:
        if forwarded is None:
            return None
        plan, step = forwarded.plan, forwarded.step
        masks = None
        if plan.is_guided:
            assert step.sampler is not None
            masks = fill_masks(
                plan.samples, num_rows=step.sampler.num_rows, num_words=self.shape.mask_words
            )
        return _Started(plan, self.runner.sample(step, forwarded.hidden, masks), step.bucket.name)

    def _read(self, started: _Started | None) -> list[TokenOutput]:
        self._last_bucket = "" if started is None else started.bucket
        if started is None:
            self._last_read = time.monotonic()
            return []
        result = self.runner.read(started.plan, started.step)
        now = time.monotonic()
        self._totals.step_seconds += now - self._last_read
        self._last_read = now
        return self.scheduler.update(started.plan, *result)


def _checked_pooling(pooling: str | None) -> Pooling | None:
    if pooling not in (None, "last", "mean"):
        raise RequestError(f"pooling must be last or mean, got {pooling!r}", param="pooling")
    return cast(Pooling | None, pooling)
