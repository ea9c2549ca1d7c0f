"""The loads that are measured: every request of a batch decodes while that is measured."""

import pytest

from models.config import PAGE_SIZE
from models.kv_cache import BLOCK_Q
from profiling.workload import FIRST_STEPS, reading_steps
from runtime.engine_request import Request
from runtime.page_pool import PagePool
from runtime.request import SamplingParams
from runtime.scheduler import Scheduler
from runtime.step_plan import Limits, SampledToken


@pytest.mark.parametrize("max_tokens", [512, 2048])
@pytest.mark.parametrize(
    ("batch", "context"), [(1, 512), (8, 256), (32, 2048), (64, 2048), (128, 256), (128, 8192)]
)
def test_a_batch_decodes_together_for_as_long_as_it_is_measured(batch, context, max_tokens):
    steps = 20
    answer = steps + 2 * FIRST_STEPS + reading_steps(batch, context, max_tokens)
    width = -(-(context + answer) // PAGE_SIZE)
    limits = Limits(batch, max_tokens // BLOCK_Q, BLOCK_Q, PAGE_SIZE, width)
    scheduler = Scheduler(limits, PagePool(batch * width + 1), prefix_caching=False)
    params = SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True)
    for i in range(batch):
        scheduler.add(Request(i, [1] * context, params, answer))
    together = 0
    while plan := scheduler.schedule():
        together += len(plan.rows) == batch
        scheduler.update(plan, [SampledToken(7, True)] * len(plan.samples))
    assert together >= steps + FIRST_STEPS
