"""How requests end: by a stop, at a limit, by scores that are not finite, by an abort."""

import pytest

from runtime.page_pool import PagePool
from runtime.scheduler import Scheduler
from runtime.step_plan import Limits, SampledToken

PAGE = 64


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
