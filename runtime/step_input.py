"""One step's inputs for the device: what the plan decided, padded to a bucket and packed."""

from dataclasses import dataclass

import numpy as np

from models.kv_cache import BLOCK_Q
from runtime.buckets import Bucket, Buckets, SampleBucket, SampleMode
from runtime.packing import Packing, float_bits
from runtime.request import MAX_LOGIT_BIAS, Request
from runtime.sampling import NUM_CANDIDATES
from runtime.slots import MAX_BANNED
from runtime.step_plan import Scheduled, StepPlan

# columns of `admitted`
ADMITTED_COLUMNS = 9  # slot, seed (high, low), choice, top_k, temperature, top_p, min_p, has_extras

# bit of the last column of a sampled row
BAN_STOPS = 1


@dataclass(frozen=True)
class StepInput:
    """What the host sends for one step.

    Attributes:
        bucket: which forward program.
        forward: int32 vector, `forward_packing(bucket, …)`.
        sampler: which sample program; None if nothing is sampled.
        sample: int32 vector, `sample_packing(sampler.num_rows)`.
        extras: one vector, `extras_packing(…)`, for each admitted request that needs it.
        num_padding: tokens that are computed for nothing.
    """

    bucket: Bucket
    forward: np.ndarray
    sampler: SampleBucket | None
    sample: np.ndarray
    extras: tuple[np.ndarray, ...]
    num_padding: int


@dataclass(frozen=True)
class StepShape:
    """The sizes that all buckets share: `num_slots` S, `pages_per_request` P, `vocab_size` V."""

    num_slots: int
    pages_per_request: int
    vocab_size: int


def forward_packing(bucket: Bucket, shape: StepShape) -> Packing:
    """Layout of the forward program's input.

    token_ids: -1 where the device's own last token is meant; positions: -1 for padding;
    hidden_rows: the token whose hidden state each sample needs; pages: (slot, index, page), slot S
    for none; admitted: see ADMITTED_COLUMNS, floats as bits, slot S for none.
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
            ("hidden_rows", (shape.num_slots,)),
            ("pages", (num_pages, 3)),
            ("admitted", (num_rows, ADMITTED_COLUMNS)),
        )
    )


def sample_packing(num_rows: int) -> Packing:
    """Layout of the sample program's input: slot (S for padding), position, bits."""
    return Packing((("rows", (num_rows, 3)),))


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
            ("token_ids", (shape.pages_per_request * BLOCK_Q,)),
        )
    )


def needs_extras(request: Request) -> bool:
    """Whether the request uses what only `extras_packing` carries."""
    params = request.params
    return params.has_penalties or bool(params.logit_bias) or params.min_tokens > 0


def sample_mode(request: Request) -> SampleMode:
    """The least that can choose the request's tokens."""
    params = request.params
    if params.logprobs is not None or needs_extras(request):
        return SampleMode.FULL
    if params.temperature == 0:
        return SampleMode.GREEDY
    if 1 <= params.top_k <= NUM_CANDIDATES:
        return SampleMode.CANDIDATES
    unlimited = params.top_k <= 0 and params.top_p == 1 and params.min_p == 0
    return SampleMode.UNLIMITED if unlimited else SampleMode.LIMITED


def make_step_input(plan: StepPlan, buckets: Buckets, shape: StepShape) -> StepInput:
    """The plan as arrays."""
    num_blocks = sum(-(-item.num_tokens // BLOCK_Q) for item in plan.chunks)
    bucket = buckets.for_step(len(plan.rows), num_blocks)
    forward = _forward_vector(plan, bucket, shape)
    samples = plan.samples
    sampler = None
    if samples:
        mode = max(sample_mode(item.request) for item in samples)
        sampler = buckets.for_samples(len(samples), mode)
    return StepInput(
        bucket=bucket,
        forward=forward,
        sampler=sampler,
        sample=_sample_vector(samples, sampler.num_rows if sampler else 0, shape),
        extras=tuple(
            _extras_vector(item, shape)
            for item in plan.scheduled
            if item.admitted and needs_extras(item.request)
        ),
        num_padding=bucket.num_tokens - sum(item.num_tokens for item in plan.scheduled),
    )


def _forward_vector(plan: StepPlan, bucket: Bucket, shape: StepShape) -> np.ndarray:
    packing = forward_packing(bucket, shape)
    vector = np.zeros(packing.size, np.int32)
    into = packing.views(vector)
    into["positions"].fill(-1)
    into["blocks"].fill(-1)
    into["pages"][:, 0] = shape.num_slots
    into["admitted"][:, 0] = shape.num_slots

    samples = admitted = 0
    start = 0
    for item in plan.scheduled:
        if item.num_tokens > 1:  # blocks begin where a multiple of BLOCK_Q does
            start = -(-start // BLOCK_Q) * BLOCK_Q
            first = start // BLOCK_Q
            into["blocks"][first : first - (-item.num_tokens // BLOCK_Q)] = item.slot
        end = start + item.num_tokens
        into["token_ids"][start:end] = _token_ids(item)
        into["positions"][start:end] = np.arange(item.start, item.start + item.num_tokens)
        into["slots"][start:end] = item.slot
        if item.samples:
            into["hidden_rows"][samples] = end - 1
            samples += 1
        if item.admitted:
            into["admitted"][admitted] = _admitted_row(item)
            admitted += 1
        start = end
    if plan.page_updates:
        into["pages"][: len(plan.page_updates)] = plan.page_updates
    return vector


def _token_ids(item: Scheduled) -> list[int]:
    request, end = item.request, item.start + item.num_tokens
    num_prompt = len(request.prompt_ids)
    if item.num_tokens == 1 and end > request.num_known:
        return [-1]
    if end <= num_prompt:
        return request.prompt_ids[item.start : end]
    if item.start >= num_prompt:
        return request.output_ids[item.start - num_prompt : end - num_prompt]
    return request.prompt_ids[item.start :] + request.output_ids[: end - num_prompt]


def _admitted_row(item: Scheduled) -> np.ndarray:
    request, params = item.request, item.request.params
    row = np.empty(ADMITTED_COLUMNS, np.int32)
    seed = np.array([request.seed >> 32 & 0xFFFFFFFF, request.seed & 0xFFFFFFFF], np.uint32)
    row[0] = item.slot
    row[1:3] = seed.view(np.int32)
    row[3] = request.choice
    row[4] = max(0, params.top_k)
    row[5:8] = float_bits(np.array([params.temperature, params.top_p, params.min_p]))
    row[8] = needs_extras(request)
    return row


def _sample_vector(samples: list[Scheduled], num_rows: int, shape: StepShape) -> np.ndarray:
    rows = np.zeros((num_rows, 3), np.int32)
    rows[:, 0] = shape.num_slots
    for row, item in zip(rows, samples, strict=False):
        params = item.request.params
        position = item.start + item.num_tokens  # of the token that is chosen
        answered = position - len(item.request.prompt_ids)
        row[:] = item.slot, position, BAN_STOPS * (answered < params.min_tokens)
    return rows.reshape(-1)


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
