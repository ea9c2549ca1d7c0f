"""How many tokens of prompts join a step: few where answers are written, else all that fit."""

import pytest


@pytest.fixture
def loop(step_loop):
    return step_loop(num_slots=4, num_blocks=16, num_pages=100, pages_per_request=20)


def prompt_tokens(plan):
    return sum(item.num_tokens for item in plan.chunks)


def test_a_prompt_is_spread_while_an_answer_is_written(loop, make_request, expected):
    first = loop.add(make_request(0, 5, max_tokens=20))
    loop.step()
    late = loop.add(make_request(1, 1000, max_tokens=5))
    plans = [loop.step() for _ in range(3)]
    # 512 tokens: a block of rows and seven of the prompt
    assert [(len(plan.rows), prompt_tokens(plan)) for plan in plans] == [(1, 448)] * 2 + [(1, 104)]
    loop.run()
    assert loop.tokens(first) == expected(first) and loop.tokens(late) == expected(late)


def test_with_nobody_to_wait_a_prompt_takes_the_whole_step(loop, make_request):
    loop.add(make_request(0, 1000, max_tokens=5))
    assert prompt_tokens(loop.step()) == 1000


def test_prompts_come_first_where_most_wait_for_them(loop, make_request):
    loop.add(make_request(0, 5, max_tokens=20))
    loop.step()
    for number in (1, 2):
        loop.add(make_request(number, 640, max_tokens=5))
    plan = loop.step()
    assert (len(plan.rows), prompt_tokens(plan)) == (1, 15 * 64)


def test_those_without_a_slot_do_not_count_as_waiting(loop, make_request):
    for number in range(3):
        loop.add(make_request(number, 5, max_tokens=20))
    loop.step()
    for number in range(3, 9):
        loop.add(make_request(number, 600, max_tokens=5))
    plan = loop.step()
    assert (len(plan.rows), prompt_tokens(plan)) == (3, 448)


def test_many_rows_leave_four_blocks(step_loop, make_request):
    loop = step_loop(num_slots=400, num_blocks=16, num_pages=500, pages_per_request=20)
    for number in range(390):
        loop.add(make_request(number, 1, max_tokens=20))
    loop.step()
    loop.add(make_request(390, 1000, max_tokens=5))
    plan = loop.step()
    assert (len(plan.rows), prompt_tokens(plan)) == (390, 4 * 64)
