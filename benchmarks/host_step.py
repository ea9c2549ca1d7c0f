"""Time of the host's part of a decode step: `python -m benchmarks.host_step`.

A stand-in answers in place of the device, so that nothing else is measured: what one step of many
decoding requests costs in the scheduler, in making its input, and in booking its tokens.
"""

import argparse
import time

from models.config import PAGE_SIZE
from runtime.buckets import Buckets
from runtime.engine_request import Request
from runtime.page_pool import PagePool
from runtime.request import SamplingParams
from runtime.scheduler import Scheduler
from runtime.step_input import StepShape, make_step_input
from runtime.step_plan import Limits, SampledToken, StepPlan

CONTEXT = 4096
PROMPT = 100


def measure(batch: int, steps: int) -> dict[str, float]:
    """Seconds a step of `batch` requests, by part: the best of several runs of `steps` steps."""
    runs = [_run(batch, steps) for _ in range(5)]
    return {part: min(run[part] for run in runs) for part in runs[0]}


def _run(batch: int, steps: int) -> dict[str, float]:
    pages = -(-CONTEXT // PAGE_SIZE)
    buckets = Buckets(batch, max(2048, 2 * batch), 1)
    limits = Limits(batch, buckets.max_tokens // PAGE_SIZE, PAGE_SIZE, PAGE_SIZE, pages)
    scheduler = Scheduler(limits, PagePool(batch * pages + 1))
    shape = StepShape(batch, pages, 152_064)
    params = SamplingParams(max_tokens=CONTEXT - PROMPT)
    for number in range(batch):
        prompt = [number] * PROMPT
        scheduler.add(Request(number, prompt, params, CONTEXT - PROMPT))
    spent = {"schedule": 0.0, "make_step_input": 0.0, "update": 0.0}
    before: StepPlan | None = None
    measured = 0
    while measured < steps:
        start = time.perf_counter()
        plan = scheduler.schedule()
        assert plan is not None
        planned = time.perf_counter()
        make_step_input(plan, buckets, shape)
        made = time.perf_counter()
        tokens = [SampledToken(7, True)] * len(before.samples) if before is not None else []
        booking = time.perf_counter()
        if before is not None:
            scheduler.update(before, tokens)
        booked = time.perf_counter()
        if before is not None and len(before.rows) == batch and len(plan.rows) == batch:
            measured += 1
            spent["schedule"] += planned - start
            spent["make_step_input"] += made - planned
            spent["update"] += booked - booking
        before = plan
    return {part: seconds / steps for part, seconds in spent.items()}


def main() -> None:
    """Prints milliseconds a step, by part and in all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128, help="requests (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="steps of a run (%(default)s)")
    options = parser.parse_args()
    parts = measure(options.batch, options.steps)
    for part, seconds in {**parts, "all": sum(parts.values())}.items():
        print(f"{part:16} {seconds * 1e3:7.3f} ms")


if __name__ == "__main__":
    main()
