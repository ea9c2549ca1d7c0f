"""A plan becomes arrays: what was decided, at its place, and padding that does nothing."""

import numpy as np
import pytest

from runtime.buckets import Bucket, Buckets, SampleBucket, SampleMode
from runtime.step_input import StepShape, extras_packing, forward_packing, make_step_input
from runtime.step_plan import Scheduled, StepPlan

SHAPE = StepShape(num_slots=4, pages_per_request=5, vocab_size=100)
BUCKETS = Buckets(4, 256, 1)


def scheduled(request, slot, start, num_tokens, *, samples=True, admitted=False):
    return Scheduled(request, slot, start, num_tokens, samples, admitted)


def inputs_of(rows=(), chunks=(), page_updates=()):
    step = make_step_input(
        StepPlan(tuple(rows), tuple(chunks), tuple(page_updates)), BUCKETS, SHAPE
    )
    into = forward_packing(step.bucket, SHAPE).views(step.forward)
    used = [row for row in into["samples"].tolist() if row[0] < SHAPE.num_slots]
    return step, into, used


def running(make_request, prompt, output=(), in_flight=0, **changes):
    request = make_request(0, list(prompt), 50, **changes)
    request.output_ids.extend(output)
    request.num_in_flight = in_flight
    request.num_tokens = len(prompt) + len(output) + in_flight
    return request


def test_rows_alone_take_the_smallest_shape(make_request):
    requests = [running(make_request, [1, 2], [7], 1), running(make_request, [3, 4, 5], [8], 1)]
    step, into, sampled = inputs_of(
        [scheduled(requests[0], 2, 3, 1), scheduled(requests[1], 0, 4, 1)]
    )
    assert step.bucket == Bucket(2, 0)
    assert into["token_ids"].tolist() == [-1, -1]  # what the device sampled last
    assert into["positions"].tolist() == [3, 4]
    assert into["slots"].tolist() == [2, 0]
    assert into["blocks"].size == 0
    assert into["hidden_rows"][:2].tolist() == [0, 1]
    assert sampled == [[2, 4, 0, -1], [0, 5, 0, -1]]
    assert step.num_padding == 0 and step.extras == ()


def test_a_known_token_is_sent(make_request):
    known = [running(make_request, [1, 2], [7]), running(make_request, [1, 2, 3])]
    _, into, _ = inputs_of([scheduled(known[0], 0, 2, 1), scheduled(known[1], 1, 2, 1)])
    assert into["token_ids"].tolist() == [7, 3]


def test_chunks_begin_at_a_block_behind_the_rows(make_request):
    """The worked example of models/kv_cache.py: 3 rows and a chunk of 70 tokens."""
    rows = [scheduled(running(make_request, [1], [2], 1), slot, 2, 1) for slot in range(3)]
    prompt = list(range(20, 95))
    chunk = scheduled(running(make_request, prompt), 3, 5, 70)
    step, into, sampled = inputs_of(rows, [chunk])
    assert step.bucket == Bucket(256, 4)
    assert into["blocks"].tolist() == [-1, 3, 3, -1]
    assert into["token_ids"][64:134].tolist() == prompt[5:]
    assert into["positions"][64:134].tolist() == list(range(5, 75))
    assert set(into["slots"][64:134].tolist()) == {3}
    outside = np.r_[3:64, 134:256]
    assert np.all(into["positions"][outside] == -1)
    assert into["hidden_rows"][:4].tolist() == [0, 1, 2, 133]
    assert [row[:2] for row in sampled] == [[0, 3], [1, 3], [2, 3], [3, 75]]
    assert step.num_padding == 256 - 73


def test_chunks_of_several_requests_share_no_block(make_request):
    chunks = [
        scheduled(running(make_request, range(1, 66)), 1, 0, 65),
        scheduled(running(make_request, range(1, 3)), 2, 0, 2),
    ]
    step, into, _ = inputs_of([], chunks)
    assert step.bucket == Bucket(256, 4)
    assert into["blocks"].tolist() == [1, 1, 2, -1]
    assert into["positions"][128:130].tolist() == [0, 1]
    assert into["hidden_rows"][:2].tolist() == [64, 129]


def test_a_chunk_that_samples_nothing_has_no_row(make_request):
    chunk = scheduled(running(make_request, range(1, 90)), 1, 0, 64, samples=False)
    step, _, sampled = inputs_of([], [chunk])
    assert (step.sampler, sampled) == (None, [])


def test_a_chunk_may_cross_from_the_prompt_into_the_answer(make_request):
    request = running(make_request, [1, 2, 3], [7, 8])
    tokens = {
        (0, 5): [1, 2, 3, 7, 8],
        (1, 2): [2, 3],
        (2, 3): [3, 7, 8],
        (3, 2): [7, 8],
    }
    for (start, count), want in tokens.items():
        _, into, _ = inputs_of([], [scheduled(request, 0, start, count)])
        assert into["token_ids"][:count].tolist() == want


def test_page_updates_are_sent_and_the_rest_names_no_slot(make_request):
    item = scheduled(running(make_request, [1], [2], 1), 0, 2, 1)
    _, into, _ = inputs_of([item], page_updates=[(0, 3, 17), (2, 0, 5)])
    assert into["pages"][:2].tolist() == [[0, 3, 17], [2, 0, 5]]
    assert np.all(into["pages"][2:, 0] == SHAPE.num_slots)


def test_a_full_house_has_room_for_its_pages():
    for bucket in BUCKETS.all:
        fields = dict(forward_packing(bucket, SHAPE).fields)
        rows = min(bucket.num_tokens, SHAPE.num_slots)
        # a page for each row; a page for each block and one more a chunk; a row of shared ones
        assert fields["pages"][0] >= rows + 2 * bucket.num_blocks + SHAPE.pages_per_request
        assert fields["admitted"][0] == rows


def test_an_admitted_request_brings_its_sampling(make_request):
    request = running(
        make_request, [1, 2], seed=-(2**63) + 5, choice=3, temperature=0.5, top_p=0.9, top_k=-1,
        min_p=0.1,
    )  # fmt: skip
    _, into, _ = inputs_of([], [scheduled(request, 2, 0, 2, admitted=True)])
    row = into["admitted"][0]
    assert (row[0], row[3], row[4], row[8]) == (2, 3, 0, 0)
    high, low = (int(x) for x in row[1:3].view(np.uint32))
    assert high << 32 | low == 2**63 + 5  # the 64 bits of the seed
    np.testing.assert_array_equal(row[5:8].view(np.float32), np.array([0.5, 0.9, 0.1], np.float32))
    assert np.all(into["admitted"][1:, 0] == SHAPE.num_slots)


def test_only_the_admitted_are_sent_as_such(make_request):
    old, new = running(make_request, [1], [2], 1), running(make_request, [1], top_k=7)
    _, into, _ = inputs_of([scheduled(old, 0, 2, 1), scheduled(new, 3, 0, 1, admitted=True)])
    assert into["admitted"][:, 0].tolist() == [3, 4]
    assert into["admitted"][0, 4] == 7


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, False),
        ({"temperature": 0.1, "top_k": 5, "logprobs": 3}, False),
        ({"presence_penalty": 0.5}, True),
        ({"logit_bias": {1: 1.0}}, True),
        ({"min_tokens": 1}, True),
    ],
)
def test_extras_are_sent_to_those_that_need_them(make_request, changes, needs):
    request = running(make_request, [1, 2], **changes)
    assert request.needs_extras == needs
    step, into, _ = inputs_of([], [scheduled(request, 2, 0, 2, admitted=True)])
    assert len(step.extras) == needs
    assert into["admitted"][0, 8] == needs
    later, _, _ = inputs_of([], [scheduled(request, 2, 0, 2)])
    assert later.extras == ()


def test_extras_hold_penalties_bias_bans_and_tokens(make_request):
    request = running(
        make_request, [1, 2, 2], [9, 9], repetition_penalty=1.5, presence_penalty=-0.5,
        frequency_penalty=0.25, logit_bias={5: 2.5, 6: -100.0}, min_tokens=3,
        stop_ids=frozenset({8, 4}),
    )  # fmt: skip
    step, _, _ = inputs_of([], [scheduled(request, 2, 0, 5, admitted=True)])
    (vector,) = step.extras
    into = extras_packing(SHAPE).views(vector)
    assert (into["slot"].tolist(), into["num_prompt"].tolist()) == ([2], [3])
    assert into["penalties"].view(np.float32).tolist() == [1.5, -0.5, 0.25]
    assert into["bias_ids"][:3].tolist() == [5, 6, 100]
    assert into["bias_values"][:3].view(np.float32).tolist() == [2.5, -100.0, 0.0]
    assert into["banned_ids"][:3].tolist() == [4, 8, 100]
    assert into["token_ids"][:6].tolist() == [1, 2, 2, 9, 9, 100]
    for name in ("bias_ids", "banned_ids", "token_ids"):
        assert into[name][-1] == SHAPE.vocab_size


@pytest.mark.parametrize(("num_output", "banned"), [(0, True), (1, True), (2, False), (3, False)])
def test_stop_tokens_are_banned_before_min_tokens(make_request, num_output, banned):
    request = running(make_request, [1, 2], [7] * num_output, min_tokens=2)
    _, _, sampled = inputs_of([], [scheduled(request, 1, 0, 2 + num_output)])
    assert sampled == [[1, 2 + num_output, banned, -1]]


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ({"temperature": 0.0, "top_p": 0.5, "top_k": 7}, SampleMode.GREEDY),
        ({"top_k": 1}, SampleMode.CANDIDATES),
        ({"top_k": 64, "top_p": 0.5, "min_p": 0.1}, SampleMode.CANDIDATES),
        ({}, SampleMode.UNLIMITED),
        ({"top_k": -1, "temperature": 3.0}, SampleMode.UNLIMITED),
        ({"top_k": 65}, SampleMode.FULL),
        ({"top_p": 0.9}, SampleMode.LIMITED),
        ({"min_p": 0.1}, SampleMode.LIMITED),
        ({"temperature": 0.0, "logprobs": 0}, SampleMode.FULL),
        ({"temperature": 0.0, "min_tokens": 1}, SampleMode.FULL),
        ({"top_k": 5, "logit_bias": {3: 1.0}}, SampleMode.FULL),
    ],
)
def test_the_least_program_that_is_enough_is_taken(make_request, changes, mode):
    request = running(make_request, [1], **changes)
    assert request.sample_mode is mode
    best = scheduled(running(make_request, [1], [2], 1, temperature=0.0), 1, 2, 1)
    step, _, _ = inputs_of([scheduled(request, 0, 0, 1), best])
    assert step.sampler.mode is mode


def test_sampled_rows_are_padded_with_no_slot(make_request):
    rows = [scheduled(running(make_request, [1], [2], 1), slot, 2, 1) for slot in range(3)]
    step, into, sampled = inputs_of(rows)
    assert step.sampler == SampleBucket(4, SampleMode.UNLIMITED)
    assert set(into["samples"][3:, 0]) == {SHAPE.num_slots} and len(sampled) == 3
