"""One step's inputs for the device: what the plan decided, padded to a bucket and packed."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from models.config import PAGE_SIZE
from models.kv_cache import BLOCK_Q
from runtime.buckets import Bucket, Buckets, SampleBucket, SampleMode, max_rows
from runtime.engine_request import Request
from runtime.experiments.interventions import Shapes
from runtime.experiments.probe import ProbedStep
from runtime.experiments.step_probes import plan_probes, seed_words
from runtime.packing import Packing, float_bits
from runtime.request import MAX_LOGIT_BIAS
from runtime.slots import MAX_BANNED, SAMPLE_COLUMNS
from runtime.step_plan import PageCopy, Scheduled, StepPlan

NO_SITES: Shapes = {}

# columns of `admitted`
ADMITTED_COLUMNS = 9  # slot, seed (high, low), choice, top_k, temperature, top_p, min_p, has_extras


@dataclass(frozen=True)
class StepInput:
    """What the host sends for one step.

    Attributes:
        bucket: which forward program.
        forward: int32 vector, `forward_packing(bucket, …)`.
        sampler: which sample program; None if nothing is sampled.
        pools: hidden states are wanted.
        extras: one vector, `extras_packing(…)`, for each admitted request that needs it.
        num_padding: tokens that are computed for nothing.
        probed: what experiments read and change in it.
        page_copies: to do before it.
    """

    bucket: Bucket
    forward: np.ndarray
    sampler: SampleBucket | None
    extras: tuple[np.ndarray, ...]
    pools: bool
    num_padding: int
    probed: ProbedStep | None = None
    page_copies: tuple[PageCopy, ...] = ()


@dataclass(frozen=True)
class StepShape:
    """The sizes that all buckets share: `num_slots` S, `pages_per_request` P, `vocab_size` V."""

    num_slots: int
    pages_per_request: int
    vocab_size: int

    @property
    def mask_words(self) -> int:
        """int32 words of a mask of the vocabulary."""
        return -(-self.vocab_size // 32)


@cache
def forward_packing(bucket: Bucket, shape: StepShape) -> Packing:
    """Layout of the forward program's input.

    token_ids: -1 where the device's own last token is meant; positions: -1 for padding;
    hidden_rows: the token whose hidden state each sample needs; pages: (slot, index, page), slot S
    for none; admitted: see ADMITTED_COLUMNS, floats as bits, slot S for none; samples: see
    SAMPLE_COLUMNS, slot S for padding and for given tokens, the position of the token that is
    chosen, given -1 or the token whose log-probability is wanted in place of a choice.
    """
    num_rows = min(bucket.num_tokens, shape.num_slots)
    # a row takes at most a page, a chunk one more than it has blocks, shared prefixes P in all
    num_pages = num_rows + 2 * bucket.num_blocks + shape.pages_per_request
    return Packing(
        (
            ("token_ids", (bucket.num_tokens,)),
            ("positions", (bucket.num_tokens,)),
            ("slots", (bucket.num_tokens,)),
            ("blocks", (bucket.num_blocks,)),
            ("hidden_rows", (max_rows(shape.num_slots),)),
            ("pages", (num_pages, 3)),
            ("admitted", (num_rows, ADMITTED_COLUMNS)),
            ("samples", (max_rows(shape.num_slots), SAMPLE_COLUMNS)),
        )
    )


@cache
def extras_packing(shape: StepShape) -> Packing:
    """Layout of what penalties, logit_bias and min_tokens need; token_ids padded with V."""
    return Packing(
        (
            ("slot", (1,)),
            ("num_prompt", (1,)),
            ("penalties", (3,)),
            ("bias_ids", (MAX_LOGIT_BIAS,)),
            ("bias_values", (MAX_LOGIT_BIAS,)),
            ("banned_ids", (MAX_BANNED,)),
            ("token_ids", (shape.pages_per_request * PAGE_SIZE,)),
        )
    )


def make_step_input(
    plan: StepPlan,
    buckets: Buckets,
    shape: StepShape,
    sites: Shapes = NO_SITES,
    ready: Container[Bucket] | None = None,
) -> StepInput:
    """The plan as arrays.

    Args:
        sites: shapes of what its probes change.
        ready: the shapes of steps that there are programs for; None: all.
    """
    num_blocks = sum(-(-item.num_tokens // BLOCK_Q) for item in plan.chunks)
    bucket = buckets.for_step(len(plan.rows), num_blocks, ready)
    forward = _forward_vector(plan, bucket, shape)
    num_rows = len(plan.samples) + sum(len(item.reported) for item in plan.scored)
    sampler = None
    if num_rows:
        mode = max((item.request.sample_mode for item in plan.samples), default=SampleMode.GREEDY)
        sampler = buckets.for_samples(num_rows, SampleMode.FULL if plan.scored else mode)
    return StepInput(
        bucket=bucket,
        forward=forward,
        sampler=sampler,
        extras=tuple(
            _extras_vector(item, shape) for item in plan.admitted if item.request.needs_extras
        ),
        pools=bool(plan.pooled),
        num_padding=bucket.num_tokens - sum(item.num_tokens for item in plan.scheduled),
        probed=plan_probes(plan, sites, num_tokens=bucket.num_tokens),
        page_copies=plan.page_copies,
    )


def _forward_vector(plan: StepPlan, bucket: Bucket, shape: StepShape) -> np.ndarray:
    packing = forward_packing(bucket, shape)
    vector = np.zeros(packing.size, np.int32)
    into = packing.views(vector)
    into["positions"].fill(-1)
    into["blocks"].fill(-1)
    into["pages"][:, 0] = shape.num_slots
    into["admitted"][:, 0] = shape.num_slots

    starts = _place_rows(plan.rows, into) | _place_chunks(plan, into)
    hidden_rows = [starts[item.slot] + item.num_tokens - 1 for item in plan.samples]
    for item in plan.scored + plan.pooled:
        offset = starts[item.slot] - item.start
        hidden_rows += [offset + position for position in item.reported]
    into["hidden_rows"][: len(hidden_rows)] = hidden_rows
    admitted = [_admitted_row(item) for item in plan.admitted]
    if admitted:
        into["admitted"][: len(admitted)] = admitted
    if plan.page_updates:
        into["pages"][: len(plan.page_updates)] = plan.page_updates
    _place_samples(plan, into["samples"], shape)
    return vector


def _place_rows(rows: Sequence[Scheduled], into: dict[str, np.ndarray]) -> dict[int, int]:
    """Writes the requests of one token; where the token of each slot is."""
    count = len(rows)
    into["token_ids"][:count] = [_token_id(item) for item in rows]
    into["positions"][:count] = [item.start for item in rows]
    into["slots"][:count] = slots = [item.slot for item in rows]
    return dict(zip(slots, range(count), strict=True))


def _place_chunks(plan: StepPlan, into: dict[str, np.ndarray]) -> dict[int, int]:
    """Writes the requests of many tokens; where the first of each slot is."""
    starts = {}
    end = len(plan.rows)
    for item in plan.chunks:
        start = -(-end // BLOCK_Q) * BLOCK_Q  # blocks begin where a multiple of BLOCK_Q does
        end = start + item.num_tokens
        into["blocks"][start // BLOCK_Q : -(-end // BLOCK_Q)] = item.slot
        into["token_ids"][start:end] = _token_ids(item)
        into["positions"][start:end] = np.arange(item.start, item.start + item.num_tokens)
        into["slots"][start:end] = item.slot
        starts[item.slot] = start
    return starts


def _token_id(item: Scheduled) -> int:
    """The one token of a row: -1 while the host does not know it."""
    return -1 if item.start >= item.request.num_known else item.request.token_id(item.start)


def _token_ids(item: Scheduled) -> list[int]:
    request, end = item.request, item.start + item.num_tokens
    num_prompt = len(request.prompt_ids)
    if end <= num_prompt:
        return request.prompt_ids[item.start : end]
    if item.start >= num_prompt:
        return request.output_ids[item.start - num_prompt : end - num_prompt]
    return request.prompt_ids[item.start :] + request.output_ids[: end - num_prompt]


def _admitted_row(item: Scheduled) -> np.ndarray:
    request, params = item.request, item.request.params
    row = np.empty(ADMITTED_COLUMNS, np.int32)
    row[0] = item.slot
    row[1:4] = seed_words(request).view(np.int32)
    row[4] = max(0, params.top_k)
    row[5:8] = float_bits(np.array([params.temperature, params.top_p, params.min_p]))
    row[8] = request.needs_extras
    return row


def _place_samples(plan: StepPlan, into: np.ndarray, shape: StepShape) -> None:
    into[:] = (shape.num_slots, 0, 0, -1)
    used = [
        (item.slot, position := item.start + item.num_tokens, _bans(item.request, position), -1)
        for item in plan.samples
    ]
    for item in plan.scored:
        prompt = item.request.prompt_ids
        used += [(shape.num_slots, 0, 0, prompt[position + 1]) for position in item.reported]
    if used:
        into[: len(used)] = used


def _bans(request: Request, position: int) -> int:
    """1 where the token at this position must not end the answer."""
    least = request.params.min_tokens
    return int(least > 0 and position - len(request.prompt_ids) < least)


def _extras_vector(item: Scheduled, shape: StepShape) -> np.ndarray:
    request, params = item.request, item.request.params
    packing = extras_packing(shape)
    vector = np.zeros(packing.size, np.int32)
    into = packing.views(vector)
    into["slot"][0] = item.slot
    into["num_prompt"][0] = len(request.prompt_ids)
    into["penalties"][:] = float_bits(
        np.array([params.repetition_penalty, params.presence_penalty, params.frequency_penalty])
    )
    for name, values in (
        ("bias_ids", list(params.logit_bias)),
        ("banned_ids", sorted(request.stop_ids)),
        ("token_ids", request.token_ids),
    ):
        into[name].fill(shape.vocab_size)
        into[name][: len(values)] = values
    into["bias_values"][: len(params.logit_bias)] = float_bits(
        np.array(list(params.logit_bias.values()))
    )
    return vector
