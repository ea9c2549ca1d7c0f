"""The engine's loop around the device of numpy: what it must keep is asserted at every step."""

from dataclasses import dataclass, field
from typing import Any

from tests.runtime.numpy_device import PAGE, VOCAB, NumpyDevice


@dataclass
class StepLoop:
    """The engine's loop, one step ahead: n + 1 is planned and started before n is booked."""

    num_slots: int = 4
    num_blocks: int = 4
    num_pages: int = 40
    pages_per_request: int = 10
    prefix_caching: bool = True
    outputs: dict[int, list[Any]] = field(default_factory=dict)
    pending: Any = None

    def __post_init__(self) -> None:
        from runtime.buckets import Buckets
        from runtime.page_pool import PagePool
        from runtime.scheduler import Limits, Scheduler
        from runtime.step_input import StepShape

        self.buckets = Buckets(self.num_slots, self.num_blocks * PAGE, 1)
        self.shape = StepShape(self.num_slots, self.pages_per_request, VOCAB)
        self.pool = PagePool(self.num_pages)
        limits = Limits(self.num_slots, self.num_blocks, PAGE, PAGE, self.pages_per_request)
        self.scheduler = Scheduler(limits, self.pool, prefix_caching=self.prefix_caching)
        self.device = NumpyDevice(self.shape, self.num_pages)

    def add(self, request: Any) -> Any:
        self.scheduler.add(request)
        self.outputs[request.request_id] = []
        return request

    def abort(self, request: Any) -> Any:
        output = self.scheduler.abort(request)
        if output is not None:
            self.outputs[request.request_id].append(output)
        self.scheduler.check()
        return output

    def step(self) -> Any:
        """Plans and starts a step, then books the one before; the plan, or None."""
        before = self._before()
        plan = self.scheduler.schedule()
        self._check_fairness(plan, *before)
        result = self._start(plan) if plan else None
        self.book()
        self.pending = (plan, result) if plan else None
        self.scheduler.check()
        return plan

    def book(self) -> None:
        """Books the step that was started last."""
        if self.pending is None:
            return
        plan, (tokens, states) = self.pending
        self.pending = None
        num_samples = len(plan.samples)
        num_tokens = num_samples + sum(len(item.reported) for item in plan.scored)
        for output in self.scheduler.update(plan, tokens[:num_tokens], states[num_tokens:]):
            assert not self.ended(output.request_id), "a token after the end"
            self.outputs[output.request_id].append(output)

    def run(self, max_steps: int = 10_000) -> "StepLoop":
        """Until every request has ended."""
        for _ in range(max_steps):
            had_pending = self.pending is not None
            plan = self.step()
            if plan is None and not self.scheduler.has_work:
                assert self.pool.num_used == 0
                return self
            assert plan is not None or had_pending, "work, but nothing can advance"
        raise AssertionError(f"still running after {max_steps} steps")

    def ended(self, request_id: int) -> bool:
        outputs = self.outputs[request_id]
        return bool(outputs) and outputs[-1].finish_reason is not None

    def tokens(self, request: Any) -> list[int]:
        outputs = self.outputs[request.request_id]
        return [output.token_id for output in outputs if output.token_id is not None]

    def _start(self, plan: Any) -> Any:
        from runtime.step_input import make_step_input

        step = make_step_input(plan, self.buckets, self.shape)
        assert step.bucket in self.buckets.all
        assert sum(item.num_tokens for item in plan.scheduled) <= self.buckets.max_tokens
        return self.device.start(step)

    def _before(self) -> tuple[list[Any], list[Any], dict[int, int]]:
        running = list(self.scheduler.running)
        wanting = [r for r in running if r.num_missing and r.num_tokens < r.max_total_tokens]
        self._one_missing = [r for r in wanting if r.num_missing == 1]
        return running, wanting, {r.request_id: r.num_preemptions for r in running}

    def _check_fairness(
        self, plan: Any, running: list[Any], wanting: list[Any], preemptions: dict[int, int]
    ) -> None:
        planned = {item.request.request_id for item in plan.scheduled} if plan else set()
        for request in self._one_missing:
            assert request.request_id in planned or request.slot is None, "a row was starved"
        if wanting and wanting[0].request_id not in planned:
            # unless one before it, that has all its tokens on their way, still holds the pages
            oldest = wanting[0] is running[0]
            assert not oldest and wanting[0].slot is None, "the oldest did not advance"
        lost = [r.num_preemptions > preemptions[r.request_id] for r in running]
        assert lost == sorted(lost), "somebody was preempted before the youngest"
        for listed in (self.scheduler.running, self.scheduler.waiting):
            ranks = [(r.priority, r.request_id) for r in listed]
            assert ranks == sorted(ranks), "who came first is not first"
