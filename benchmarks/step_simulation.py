"""What spreading prompts over steps would give: `python -m benchmarks.step_simulation`.

The scheduler is the real one, its device a table: how long a step of a 7B takes on an H200, from
the figures of docs/performance.md. Clients send their next request when the last has ended.
"""

import argparse
import statistics
from dataclasses import dataclass, field

import numpy as np

from models.config import PAGE_SIZE
from runtime.buckets import Bucket, Buckets
from runtime.engine_request import Request
from runtime.page_pool import PagePool
from runtime.request import SamplingParams, TokenOutput
from runtime.scheduler import Scheduler
from runtime.step_plan import MIXED_TOKENS, Limits, SampledToken, StepPlan

NUM_SLOTS = 128
MAX_TOKENS = 2048
MAX_LENGTH = 8192

# Seconds of a step by its rows (`benchmarks.speed`), or by its tokens with prompts, without what
# its rows read (`benchmarks.step_times`); from docs/performance.md, between them a straight line.
ROWS = (1, 8, 16, 32, 64, 128)
ROW_SECONDS = (3.71e-3, 3.83e-3, 3.91e-3, 4.06e-3, 4.61e-3, 4.96e-3)
TOKENS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
TOKEN_SECONDS = (
    *(4.56e-3, 4.95e-3, 6.05e-3, 6.85e-3, 9.5e-3, 11.95e-3, 17.4e-3),
    *(22.85e-3, 33.7e-3, 44.6e-3),
)
# The 7B's: width of attention, bytes of a token's KV; what is achieved, a second.
ATTENTION_FLOPS = 28 * 4 * 3584
KV_BYTES = 57_344
PREFILL_FLOPS = 450e12
KV_READ = 3.5e12
HEAD = 0.35e-3  # scores and choice for 128 rows

# clients, requests, prompt tokens, output tokens
LOADS = (
    (1, 12, 512, 256),
    (32, 192, 512, 256),
    (128, 512, 512, 256),
    (32, 128, 2048, 128),
    (128, 512, 128, 128),
    (32, 64, 1024, 1024),
    (8, 32, 4096, 128),
)


def step_seconds(bucket: Bucket, plan: StepPlan) -> float:
    """What was measured for the shape, and attention to what was there before."""
    if bucket.num_blocks:
        seconds = float(np.interp(bucket.num_tokens, TOKENS, TOKEN_SECONDS))
        seconds += HEAD * (len(plan.rows) + len(plan.chunks)) / NUM_SLOTS
    else:
        seconds = float(np.interp(bucket.num_tokens, ROWS, ROW_SECONDS))
    rows = sum(item.start for item in plan.rows) * KV_BYTES / KV_READ
    pairs = sum(item.num_tokens * item.start for item in plan.chunks)
    return seconds + rows + pairs * ATTENTION_FLOPS / PREFILL_FLOPS


@dataclass
class Clients:
    """So many requests at once, until `total` were sent; what they see, in seconds."""

    scheduler: Scheduler
    total: int
    num_prompt: int
    num_output: int
    sent: list[float] = field(default_factory=list)
    first: dict[int, float] = field(default_factory=dict)
    last: dict[int, float] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)

    def send(self, now: float) -> None:
        """One request more, if there are any."""
        if len(self.sent) < self.total:
            prompt = [len(self.sent)] * self.num_prompt
            params = SamplingParams(max_tokens=self.num_output)
            self.scheduler.add(Request(len(self.sent), prompt, params, self.num_output))
            self.sent.append(now)

    def take(self, outputs: list[TokenOutput], now: float) -> None:
        """Tokens that came at `now`."""
        for output in outputs:
            if output.request_id in self.first:
                self.gaps.append(now - self.last[output.request_id])
            self.first.setdefault(output.request_id, now)
            self.last[output.request_id] = now
            if output.finish_reason is not None:
                self.send(now)


def simulate(num_clients: int, total: int, prompt: int, output: int, mixed: int) -> Clients:
    """Serves one load to its end."""
    buckets = Buckets(NUM_SLOTS, MAX_TOKENS, 1)
    pages = MAX_LENGTH // PAGE_SIZE
    blocks = MAX_TOKENS // PAGE_SIZE
    limits = Limits(NUM_SLOTS, blocks, PAGE_SIZE, PAGE_SIZE, pages, mixed)
    scheduler = Scheduler(limits, PagePool(NUM_SLOTS * pages), prefix_caching=False)
    clients = Clients(scheduler, total, prompt, output)
    for _ in range(num_clients):
        clients.send(0.0)
    now = 0.0
    before: StepPlan | None = None
    while scheduler.has_work:
        plan = scheduler.schedule()  # one step ahead, as the engine does
        if before is not None:
            chunk_blocks = sum(-(-item.num_tokens // PAGE_SIZE) for item in before.chunks)
            now += step_seconds(buckets.for_step(len(before.rows), chunk_blocks), before)
            tokens = [SampledToken(7, True)] * len(before.samples)
            clients.take(scheduler.update(before, tokens), now)
        before = plan
    return clients


def main() -> None:
    """Prints a line for each load and number of tokens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--mixed-tokens", type=int, nargs="+", default=[MAX_TOKENS, MIXED_TOKENS], metavar="N"
    )
    options = parser.parse_args()
    print("clients × in / out      mixed   tokens/s   TTFT p50   inter-token p99")
    for num_clients, total, prompt, output in LOADS:
        for mixed in options.mixed_tokens:
            clients = simulate(num_clients, total, prompt, output, mixed)
            rate = total * output / max(clients.last.values())
            waits = [clients.first[number] - sent for number, sent in enumerate(clients.sent)]
            gap = statistics.quantiles(clients.gaps, n=100)[98]
            load = f"{num_clients} × {prompt} / {output}"
            print(
                f"{load:20} {mixed:8} {rate:10.0f} {1e3 * statistics.median(waits):7.0f} ms "
                f"{1e3 * gap:14.1f} ms"
            )


if __name__ == "__main__":
    main()
