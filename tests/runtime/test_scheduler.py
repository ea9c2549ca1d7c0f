"""The oldest come first, nobody starves, pages are given back: one case at a time."""

import pytest

from runtime.errors import RequestError
from runtime.page_pool import PagePool
from runtime.scheduler import Scheduler
from runtime.step_plan import Limits, SampledToken

PAGE = 64


def test_one_request_gets_its_answer(step_loop, make_request, expected):
    loop = step_loop()
    request = loop.add(make_request(0, 10, max_tokens=5))
    loop.run()
    assert loop.tokens(request) == expected(request)
    assert [o.finish_reason for o in loop.outputs[0]] == [None] * 4 + ["length"]


def test_the_next_step_is_planned_before_the_token_is_known(step_loop, make_request):
    loop = step_loop()
    request = loop.add(make_request(0, 10, max_tokens=3))
    loop.step()
    assert (request.num_known, request.num_in_flight, request.num_missing) == (10, 1, 1)
    plan = loop.step()
    assert [(item.start, item.num_tokens) for item in plan.rows] == [(10, 1)]
    assert request.num_known == 11


def test_nothing_to_do_is_no_plan(step_loop):
    loop = step_loop()
    assert loop.scheduler.schedule() is None
    assert not loop.scheduler.has_work


def test_the_last_token_is_never_computed(step_loop, make_request):
    loop = step_loop()
    request = loop.add(make_request(0, 10, max_tokens=1))
    loop.step()
    assert loop.step() is None
    assert request.finish_reason == "length"
    assert request.num_computed == 10


@pytest.mark.parametrize(
    ("num_pages", "pages_per_request", "holds"), [(3, 10, 128), (40, 2, 128), (4, 2, 128)]
)
def test_what_can_never_fit_is_refused_with_numbers(
    step_loop, make_request, num_pages, pages_per_request, holds
):
    loop = step_loop(num_pages=num_pages, pages_per_request=pages_per_request)
    with pytest.raises(
        RequestError, match=f"100 prompt tokens and 30 more cannot fit in the {holds} tokens"
    ) as caught:
        loop.add(make_request(0, 100, max_tokens=30))
    assert (caught.value.param, caught.value.code) == ("max_tokens", "context_length_exceeded")
    assert not loop.scheduler.has_work


def test_what_fits_to_the_last_token_is_served(step_loop, make_request, expected):
    loop = step_loop(num_pages=3)
    request = loop.add(make_request(0, 100, max_tokens=29))  # the last one needs no room
    loop.run()
    assert loop.tokens(request) == expected(request)


def test_rows_go_on_while_a_long_prompt_is_prefilled(step_loop, make_request):
    loop = step_loop(num_blocks=2)
    rows = [loop.add(make_request(i, 5, max_tokens=20)) for i in range(2)]
    loop.step()
    loop.add(make_request(2, 300, max_tokens=2))
    for _ in range(4):
        plan = loop.step()
        assert {item.request for item in plan.rows} == set(rows)
        assert [item.num_tokens for item in plan.chunks] == [64]
    loop.run()


def test_a_prompt_joins_running_rows_in_the_smallest_budget(step_loop, make_request):
    loop = step_loop(num_blocks=2)
    loop.add(make_request(0, 5, max_tokens=100))
    loop.step()
    late = loop.add(make_request(1, 5))
    loop.step()
    assert late.slot is not None


def test_a_long_prompt_is_cut_to_the_room_that_rows_leave(step_loop, make_request):
    loop = step_loop(num_blocks=3)
    loop.add(make_request(0, 5, max_tokens=20))
    loop.step()
    loop.add(make_request(1, 300, max_tokens=2))
    plan = loop.step()
    assert [item.num_tokens for item in plan.chunks] == [128]
    assert not plan.chunks[0].samples
    plan = loop.step()
    assert [(item.start, item.num_tokens) for item in plan.chunks] == [(128, 128)]
    plan = loop.step()
    assert [(item.start, item.num_tokens) for item in plan.chunks] == [(256, 44)]
    assert plan.chunks[0].samples


def test_the_youngest_gives_its_pages_up_and_waits_in_front(step_loop, make_request, expected):
    loop = step_loop(num_slots=2, num_pages=4)
    old = loop.add(make_request(0, 60, max_tokens=80))
    young = loop.add(make_request(1, 60, max_tokens=80))
    late = loop.add(make_request(2, 10, max_tokens=2))
    while not young.num_preemptions:
        loop.step()
    assert (young.slot, young.pages, young.num_computed) == (None, [], 0)
    assert loop.scheduler.waiting[0] is young
    loop.run()
    assert loop.scheduler.num_preemptions == young.num_preemptions + late.num_preemptions
    assert old.num_preemptions == 0
    for request in (old, young, late):
        assert loop.tokens(request) == expected(request)


def test_nobody_is_admitted_in_the_step_that_preempts(step_loop, make_request):
    loop = step_loop(num_slots=3, num_pages=4)
    loop.add(make_request(0, 60, max_tokens=80))
    young = loop.add(make_request(1, 60, max_tokens=80))
    while not young.num_preemptions:
        plan = loop.step()
    assert not any(item.admitted for item in plan.scheduled)


def test_admission_leaves_room_for_what_running_prompts_still_need(step_loop, make_request):
    loop = step_loop(num_blocks=2, num_pages=8)
    prompt = list(range(40)) + list(range(25))
    loop.add(make_request(0, prompt, max_tokens=1))
    loop.run()
    loop.add(make_request(1, 5, max_tokens=50))
    loop.step()
    long = loop.add(make_request(2, 300, max_tokens=2))  # 5 pages, and 1 is taken: 1 is left
    late = loop.add(make_request(3, prompt))  # known but for one token, which takes a second page
    while not long.num_in_flight:
        loop.step()
        assert late.slot is None
    loop.run()
    assert loop.scheduler.num_preemptions == 0


def test_a_young_row_is_not_starved_by_an_older_prompt(step_loop, make_request, expected):
    loop = step_loop(num_blocks=2)
    prompt = list(range(40)) + list(range(25))
    first = loop.add(make_request(0, prompt, max_tokens=50))
    loop.step()
    loop.add(make_request(1, 300))
    young = loop.add(make_request(2, prompt, max_tokens=20))  # known but for one token: a row
    plan = loop.step()
    assert [item.request for item in plan.rows] == [first, young]
    loop.abort(first)
    for _ in range(3):
        plan = loop.step()
        assert [item.request for item in plan.rows] == [young]
        assert [item.num_tokens for item in plan.chunks] == [64]
    loop.run()
    assert loop.tokens(young) == expected(young)


def test_a_preempted_request_waits_for_its_token_in_flight(make_request):
    scheduler = Scheduler(Limits(2, 4, PAGE, PAGE, 10), PagePool(5))
    old, young = make_request(0, 64, max_tokens=80), make_request(1, 130, max_tokens=9)
    scheduler.add(old)
    scheduler.add(young)
    first = scheduler.schedule()
    second = scheduler.schedule()  # the older one takes its second page
    scheduler.abort(old)
    assert scheduler.schedule() is None
    assert (young.slot, young.num_in_flight) == (None, 1)
    scheduler.update(first, [SampledToken(1, True), SampledToken(2, True)])
    scheduler.update(second, [SampledToken(3, True)])
    (item,) = scheduler.schedule().scheduled
    assert item.request is young and item.start + item.num_tokens == 131


def test_rows_beyond_one_block_leave_room_for_chunks(step_loop, make_request, expected):
    loop = step_loop(num_slots=70, num_blocks=3, num_pages=200)
    requests = [loop.add(make_request(i, 2, max_tokens=6)) for i in range(70)]
    requests.append(loop.add(make_request(70, 150, max_tokens=2)))
    loop.run()
    for request in requests:
        assert loop.tokens(request) == expected(request)


def test_random_seeds_choices_and_penalties_reach_the_device(step_loop, make_request, expected):
    loop = step_loop()
    requests = [
        make_request(0, 5, seed=2**63 - 1),
        make_request(1, 5, seed=-5, choice=3),
        make_request(2, 5, max_tokens=30, presence_penalty=1.5, repetition_penalty=1.2),
        make_request(3, 5, max_tokens=30, logit_bias={3: 1.5, 7: -100.0}, min_tokens=2),
    ]
    for request in requests:
        loop.add(request)
    loop.run()
    for request in requests:
        assert loop.tokens(request) == expected(request)
    loop.add(make_request(4, 5))  # takes a slot that had penalties
    loop.add(make_request(5, 5))
    loop.run()
    for request_id in (4, 5):
        again = make_request(request_id, 5)
        assert loop.tokens(again) == expected(again)
