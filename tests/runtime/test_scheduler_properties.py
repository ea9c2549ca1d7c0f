"""After any sequence of adds, steps and aborts: the books are right, and so is every answer."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runtime.errors import RequestError

# Prompts of a group begin alike; 49 is the token that gives scores that are not finite.
GROUPS = {
    0: [i * i % 49 for i in range(600)],
    1: [i * i % 49 for i in range(130)] + [i * 3 % 49 for i in range(470)],
    2: [i % 5 for i in range(600)],
    3: [i * i % 49 for i in range(100)] + [49] + [i % 49 for i in range(500)],
}

LOOPS = st.fixed_dictionaries(
    {
        "num_slots": st.integers(1, 6),
        "num_blocks": st.integers(2, 5),
        "num_pages": st.integers(6, 14),
        "pages_per_request": st.integers(2, 6),
        "prefix_caching": st.booleans(),
    }
)

REQUESTS = st.fixed_dictionaries(
    {
        "group": st.sampled_from([0, 0, 0, 1, 1, 2, 2, 3]),
        "length": st.one_of(
            st.integers(1, 8), st.integers(60, 70), st.integers(120, 135), st.integers(190, 300)
        ),
        "max_tokens": st.one_of(st.integers(1, 4), st.integers(30, 90)),
        "stop_ids": st.sampled_from([frozenset(), frozenset({3}), frozenset(range(4, 9))]),
        "seed": st.integers(0, 1),
        "cache_salt": st.sampled_from(["", "", "salt"]),
        "min_tokens": st.sampled_from([0, 0, 0, 2]),
        "presence_penalty": st.sampled_from([0.0, 0.0, 0.0, 1.5]),
        "prompt_logprobs": st.sampled_from([None, None, None, 1]),
        "pooling": st.sampled_from([None, None, None, None, "last", "mean"]),
        "priority": st.sampled_from([0, 0, 0, 0, -1, 2]),
    }
)


def build(make_request, request_id, asked):
    changes = dict(asked)
    prompt = GROUPS[changes.pop("group")][: changes.pop("length")]
    max_tokens = changes.pop("max_tokens")
    changes["min_tokens"] = min(changes["min_tokens"], max_tokens)
    if changes["pooling"]:
        max_tokens, changes["min_tokens"] = 1, 0
    return make_request(request_id, prompt, max_tokens, **changes)


def is_bad(request):
    """Whether its scores are not finite; the states of the stand-in always are."""
    return 49 in request.prompt_ids and not request.pooling


def check_reports(outputs, request, states):
    """The scores or the embedding of the prompt came once, and are those of its own tokens."""
    if request.pooling:
        (output,) = outputs
        wanted = states[-1:] if request.pooling == "last" else states
        assert np.frombuffer(output.embedding, np.float32) == pytest.approx(np.mean(wanted))
        assert (output.token_id, output.finish_reason) == (None, "stop")
    elif request.params.prompt_logprobs is not None and outputs[0].token_id is not None:
        first, *others = outputs[0].prompt_logprobs
        assert first is None and all(output.prompt_logprobs is None for output in outputs[1:])
        prompt = request.prompt_ids[1:]
        scores = zip(prompt, states, strict=False)
        assert others == [(token, -state, ((token + 1, -1.0),)) for token, state in scores]


def check_answer(loop, request, expected, states):
    """The answer, or as much of it as the request lived to see, and how it ended."""
    if request.finish_reason in ("stop", "length"):
        check_reports(loop.outputs[request.request_id], request, states(request))
    if request.pooling:
        return request.finish_reason
    outputs, tokens, whole = (
        loop.outputs[request.request_id],
        loop.tokens(request),
        expected(request),
    )
    assert tokens == whole[: len(tokens)]
    assert [o.finish_reason for o in outputs[:-1]] == [None] * (len(outputs) - 1)
    reason = outputs[-1].finish_reason if outputs else None
    assert reason == request.finish_reason
    if reason == "error":
        assert 49 in request.prompt_ids and not tokens
    elif reason == "stop":
        assert tokens == whole and tokens[-1] in request.stop_ids
    elif reason == "length":
        assert tokens == whole and len(tokens) == request.max_tokens
    return reason


def test_any_sequence_keeps_the_books_and_the_answers(step_loop, make_request, expected, states):
    class SchedulerMachine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.loop = None
            self.requests = []

        @initialize(limits=LOOPS)
        def start(self, limits):
            self.loop = step_loop(**limits)

        @rule(asked=REQUESTS)
        def add(self, asked):
            request = build(make_request, len(self.requests), asked)
            scheduler = self.loop.scheduler
            fits = min(self.loop.num_pages - 1, self.loop.pages_per_request) * 64
            try:
                self.loop.add(request)
            except RequestError as error:
                assert request.max_total_tokens - 1 > fits
                assert str(fits) in str(error)
                assert request not in scheduler.waiting
            else:
                assert request.max_total_tokens - 1 <= fits
                self.requests.append(request)

        @rule(count=st.sampled_from([1, 1, 2, 5, 20]))
        def step(self, count):
            for _ in range(count):
                self.loop.step()

        @precondition(lambda self: self.requests)
        @rule(data=st.data())
        def abort(self, data):
            request = data.draw(st.sampled_from(self.requests))
            held, free = set(request.pages), self.loop.pool.num_free
            alone = sum(self.loop.pool.num_references(page) == 1 for page in held)
            ended = request.finish_reason
            output = self.loop.abort(request)
            assert (output is None) == (ended is not None)
            if ended is None:
                assert self.loop.pool.num_free == free + alone
            assert request.slot is None and not request.pages
            assert self.loop.abort(request) is None

        @precondition(lambda self: self.loop is not None)
        @rule()
        def book(self):
            self.loop.book()
            self.loop.scheduler.check()

        @invariant()
        def books(self):
            if self.loop is not None:
                self.loop.scheduler.check()

        def teardown(self):
            if self.loop is None:
                return
            self.loop.run()
            assert not self.loop.scheduler.has_work
            self.loop.scheduler.check()
            for request in self.requests:
                assert check_answer(self.loop, request, expected, states) is not None

    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(
            max_examples=150,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    limits=LOOPS,
    asked=st.lists(REQUESTS, min_size=1, max_size=10),
    waits=st.lists(st.integers(0, 4), min_size=10, max_size=10),
    data=st.data(),
)
def test_an_answer_depends_on_its_request_alone(
    step_loop, make_request, expected, states, limits, asked, waits, data
):
    loop = step_loop(**limits)
    fits = min(limits["num_pages"] - 1, limits["pages_per_request"]) * 64
    order = data.draw(st.permutations(asked))
    requests = [build(make_request, i, one) for i, one in enumerate(order)]
    requests = [r for r in requests if r.max_total_tokens - 1 <= fits]
    for request, wait in zip(requests, waits, strict=False):
        loop.add(request)
        for _ in range(wait):
            loop.step()
    loop.run()
    for request in requests:
        reason = check_answer(loop, request, expected, states)
        assert reason == ("error" if is_bad(request) else reason)


@pytest.mark.parametrize("prefix_caching", [False, True])
@pytest.mark.parametrize("num_pages", [7, 9, 13, 40])
@pytest.mark.parametrize("num_blocks", [2, 5])
def test_a_full_house_ends_in_every_pool(
    step_loop, make_request, expected, prefix_caching, num_pages, num_blocks
):
    loop = step_loop(6, num_blocks, num_pages, 6, prefix_caching)
    requests = [
        loop.add(make_request(i, GROUPS[i % 3][: 30 + 29 * i], max_tokens=5 + 17 * (i % 4)))
        for i in range(8)
    ]
    loop.run()
    for request in requests:
        assert loop.tokens(request) == expected(request)
    if num_pages == 7:
        assert loop.scheduler.num_preemptions
