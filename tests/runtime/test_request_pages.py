"""A common beginning is computed once, and nothing else is shared: one case at a time."""

import pytest


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
