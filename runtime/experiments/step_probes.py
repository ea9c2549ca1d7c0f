"""Finds the probes in a plan, and where on the step's axes their tokens and scores are."""

from collections.abc import Iterator

import numpy as np

from models.kv_cache import BLOCK_Q
from runtime.engine_request import Request
from runtime.experiments.interventions import Shapes
from runtime.experiments.probe import ProbedStep, ProbedTokens, make_probed_step
from runtime.experiments.score_functions import Number, Row
from runtime.step_plan import Scheduled, StepPlan


def plan_probes(plan: StepPlan, sites: Shapes, *, num_tokens: int) -> ProbedStep | None:
    """The experiments in a step; None where there are none."""
    if all(item.request.probe is None for item in plan.scheduled):
        return None
    tokens = [
        ProbedTokens(item.request.probe, first, item.start, item.num_tokens)
        for item, first in zip(plan.scheduled, token_starts(plan), strict=True)
        if item.request.probe is not None
    ]
    rows = [
        (item.request.probe.processing, _row(row, item))
        for row, item in enumerate(plan.samples)
        if item.request.probe is not None and item.request.probe.processing is not None
    ]
    return make_probed_step(tokens, rows, sites, num_tokens=num_tokens)


def token_starts(plan: StepPlan) -> Iterator[int]:
    """Where on the token axis each of `plan.scheduled` begins; blocks at multiples of BLOCK_Q."""
    yield from range(len(plan.rows))
    start = len(plan.rows)
    for item in plan.chunks:
        start = -(-start // BLOCK_Q) * BLOCK_Q
        yield start
        start += item.num_tokens


def seed_words(request: Request) -> np.ndarray:
    """uint32 [3]: the high and low half of the seed, and the number of the choice."""
    high, low = request.seed >> 32 & 0xFFFFFFFF, request.seed & 0xFFFFFFFF
    return np.array([high, low, request.choice], np.uint32)


def _row(row: int, item: Scheduled) -> Row:
    request, params = item.request, item.request.params
    position = item.start + item.num_tokens
    known = position <= request.num_known
    numbers: dict[str, Number] = {
        name: np.float32(getattr(params, name)) for name in ("temperature", "top_p", "min_p")
    }
    numbers["top_k"] = np.int32(max(0, params.top_k))
    return Row(
        row=np.int32(row),
        slot=np.int32(item.slot),
        given=np.int32(request.token_id(position - 1) if known else -1),
        position=np.int32(position),
        num_answered=np.int32(position - len(request.prompt_ids)),
        seed=seed_words(request),
        params=numbers,
    )
