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


@pytest.mark.parametrize("min_tokens", [0, 3])
def test_a_stop_token_ends_the_answer(step_loop, make_request, expected, min_tokens):
    loop = step_loop()
    stops = frozenset(range(25))
    request = loop.add(make_request(0, 10, max_tokens=200, stop_ids=stops, min_tokens=min_tokens))
    loop.run()
    tokens = loop.tokens(request)
    assert tokens == expected(request)
    assert tokens[-1] in stops
    assert not stops & set(tokens[:-1])
    assert len(tokens) > min_tokens
    assert request.finish_reason == "stop"


def test_a_stop_token_before_min_tokens_ends_nothing(make_request):
    scheduler = Scheduler(Limits(1, 1, PAGE, PAGE, 4), PagePool(5))
    request = make_request(0, 5, max_tokens=9, min_tokens=2, stop_ids=frozenset({7}))
    scheduler.add(request)
    reasons = []
    for _ in range(2):
        plan = scheduler.schedule()
        reasons += [o.finish_reason for o in scheduler.update(plan, [SampledToken(7, True)])]
    assert reasons == [None, "stop"]


def test_the_last_allowed_token_may_also_be_a_stop(make_request):
    scheduler = Scheduler(Limits(1, 1, PAGE, PAGE, 4), PagePool(5))
    scheduler.add(make_request(0, 5, max_tokens=1, stop_ids=frozenset({7})))
    (output,) = scheduler.update(scheduler.schedule(), [SampledToken(7, True)])
    assert (output.token_id, output.finish_reason) == (7, "stop")


def test_logprobs_are_handed_on(make_request):
    scheduler = Scheduler(Limits(1, 1, PAGE, PAGE, 4), PagePool(5))
    scheduler.add(make_request(0, 5))
    token = SampledToken(7, True, -0.5, ((7, -0.5), (8, -2.0)))
    (output,) = scheduler.update(scheduler.schedule(), [token])
    assert (output.logprob, output.top_logprobs) == (-0.5, ((7, -0.5), (8, -2.0)))


def test_results_must_be_as_many_as_the_plan_samples(make_request):
    scheduler = Scheduler(Limits(1, 1, PAGE, PAGE, 4), PagePool(5))
    scheduler.add(make_request(0, 5))
    with pytest.raises(ValueError, match="shorter"):
        scheduler.update(scheduler.schedule(), [])


def test_scores_that_are_not_finite_end_their_request_only(step_loop, make_request, expected):
    loop = step_loop()
    good = loop.add(make_request(0, 70))
    bad = loop.add(make_request(1, [1] * 64 + [49] + [2] * 70))  # 49: not finite
    other = loop.add(make_request(2, [1] * 64 + [3] * 20))
    loop.run()
    (output,) = loop.outputs[1]
    assert (output.token_id, output.finish_reason) == (None, "error")
    assert output.error == "the model's scores are not finite numbers"
    assert bad.finish_reason == "error"
    for request in (good, other):
        assert loop.tokens(request) == expected(request)


def test_pages_of_scores_that_are_not_finite_are_not_found_again(step_loop, make_request):
    loop = step_loop()
    prompt = [1] * 64 + [49] * 70
    loop.add(make_request(0, prompt))
    loop.run()
    again = loop.add(make_request(1, prompt))
    loop.run()
    assert again.num_cached_tokens == 0


def test_nor_are_they_when_the_request_was_preempted_meanwhile(make_request):
    scheduler = Scheduler(Limits(2, 4, PAGE, PAGE, 10), PagePool(5))
    old, bad = make_request(0, 64, max_tokens=80), make_request(1, 130, max_tokens=9)
    scheduler.add(old)
    scheduler.add(bad)
    first = scheduler.schedule()
    assert [item.request for item in first.samples] == [old, bad]
    second = scheduler.schedule()  # the older one takes its second page
    assert bad.slot is None
    scheduler.update(first, [SampledToken(1, True), SampledToken(0, False)])
    assert bad.finish_reason == "error"
    scheduler.update(second, [SampledToken(1, True)])
    scheduler.abort(old)
    again = make_request(2, list(bad.prompt_ids), max_tokens=9)
    scheduler.add(again)
    scheduler.schedule()
    assert again.num_cached_tokens == 0


def test_an_aborted_requests_pages_are_free_at_once(step_loop, make_request):
    loop = step_loop(num_slots=1, num_pages=4)
    first = loop.add(make_request(0, 189))
    second = loop.add(make_request(1, 189))
    loop.step()
    assert loop.pool.num_free == 0
    output = loop.abort(first)
    assert (output.token_id, output.finish_reason) == (None, "abort")
    assert loop.pool.num_free == 3
    plan = loop.step()
    assert [item.request for item in plan.scheduled] == [second]


def test_an_abort_works_in_every_state_and_only_once(step_loop, make_request, expected):
    loop = step_loop(num_slots=2, num_pages=4)
    other = loop.add(make_request(0, 60, max_tokens=80))
    young = loop.add(make_request(1, 60, max_tokens=80))
    waiting = loop.add(make_request(2, 60, max_tokens=80))
    loop.step()
    assert loop.abort(waiting).finish_reason == "abort"  # never admitted
    while not young.num_preemptions:
        loop.step()
    assert loop.abort(young).finish_reason == "abort"  # preempted, its token still in flight
    assert loop.abort(young) is None
    loop.run()
    assert loop.abort(other) is None  # ended by itself
    assert loop.tokens(other) == expected(other)


def test_a_token_in_flight_of_an_aborted_request_is_dropped(step_loop, make_request):
    loop = step_loop()
    request = loop.add(make_request(0, 5))
    loop.step()
    loop.abort(request)
    loop.book()
    assert [o.finish_reason for o in loop.outputs[0]] == ["abort"]


def test_a_common_beginning_is_computed_once(step_loop, make_request, expected):
    loop = step_loop()
    first = loop.add(make_request(0, list(range(40)) * 4))
    loop.run()
    second = loop.add(make_request(1, list(range(40)) * 4))
    plan = loop.step()
    assert [(item.start, item.num_tokens) for item in plan.scheduled] == [(128, 32)]
    assert second.num_cached_tokens == 128
    loop.run()
    assert (loop.scheduler.pages.prefix_queries, loop.scheduler.pages.prefix_hits) == (320, 128)
    assert {o.num_cached_tokens for o in loop.outputs[1]} == {128}
    assert loop.tokens(first) == expected(first)
    assert loop.tokens(second) == expected(second)


def test_a_prompt_that_is_known_whole_still_computes_its_last_token(step_loop, make_request):
    loop = step_loop()
    prompt = list(range(32)) * 4
    loop.add(make_request(0, prompt))
    loop.run()
    request = loop.add(make_request(1, prompt))
    plan = loop.step()
    assert request.num_cached_tokens == 64
    assert [item.num_tokens for item in plan.scheduled] == [64]


def test_an_answer_can_be_the_beginning_of_the_next_prompt(step_loop, make_request, expected):
    loop = step_loop()
    first = loop.add(make_request(0, 60, max_tokens=80))
    loop.run()
    turn = first.prompt_ids + loop.tokens(first) + [5] * 10
    second = loop.add(make_request(1, turn))
    loop.run()
    assert second.num_cached_tokens == 128
    assert loop.tokens(second) == expected(second)


def test_pages_are_found_from_the_step_after_they_were_written(step_loop, make_request, expected):
    loop = step_loop()
    first = loop.add(make_request(0, list(range(40)) * 4, max_tokens=20))
    loop.step()
    second = loop.add(make_request(1, list(range(40)) * 4))
    loop.step()
    assert second.num_cached_tokens == 128
    assert set(second.pages[:2]) == set(first.pages[:2])
    loop.run()
    assert loop.tokens(second) == expected(second)


@pytest.mark.parametrize(("salts", "cached"), [(("a", "a"), 128), (("a", "b"), 0), (("", "a"), 0)])
def test_salts_separate(step_loop, make_request, salts, cached):
    loop = step_loop()
    prompt = list(range(40)) * 4
    for i, salt in enumerate(salts):
        request = loop.add(make_request(i, prompt, cache_salt=salt))
        loop.run()
    assert request.num_cached_tokens == cached


def test_without_prefix_caching_nothing_is_shared(step_loop, make_request):
    loop = step_loop(prefix_caching=False)
    for i in range(2):
        request = loop.add(make_request(i, list(range(40)) * 4))
        loop.run()
    assert request.num_cached_tokens == 0
    assert loop.scheduler.pages.prefix_hits == 0


def test_a_preempted_request_is_not_counted_as_a_prefix_hit(step_loop, make_request):
    loop = step_loop(num_slots=2, num_pages=5)
    loop.add(make_request(0, 60, max_tokens=130))
    young = loop.add(make_request(1, 70, max_tokens=60))
    loop.run()
    assert young.num_preemptions
    assert young.num_cached_tokens == 0
    assert (loop.scheduler.pages.prefix_queries, loop.scheduler.pages.prefix_hits) == (130, 0)


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


def test_many_shared_prefixes_fit_the_steps_page_updates(step_loop, make_request, expected):
    loop = step_loop(num_slots=8, num_blocks=8, num_pages=60, pages_per_request=6)
    prompt = list(range(45)) * 8
    loop.add(make_request(0, prompt[:321]))
    loop.run()
    requests = [loop.add(make_request(i, prompt[:321])) for i in range(1, 8)]
    loop.run()
    for request in requests:
        assert request.num_cached_tokens == 320
        assert loop.tokens(request) == expected(request)


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
