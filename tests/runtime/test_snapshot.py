"""A snapshot says of each page whose it is, and of each request how far it is."""

import numpy as np

from runtime.messages import CACHED, FREE, PageRuns
from runtime.snapshot import MAX_WAITING, page_runs, take_snapshot

PAGE = 64


def unrolled(runs):
    rows = zip(runs.counts, runs.owners, runs.shared, strict=True)
    return [(owner, shared) for count, owner, shared in rows for _ in range(count)]


def test_an_empty_pool_is_one_run(step_loop):
    loop = step_loop()
    snapshot = take_snapshot(loop.scheduler)
    assert snapshot.pages == PageRuns([39], [FREE], [False])
    assert snapshot.running == snapshot.waiting == []


def test_pages_belong_to_their_requests_and_are_kept_afterwards(step_loop, make_request):
    loop = step_loop()
    request = loop.add(make_request(7, 3 * PAGE + 5, max_tokens=2))
    loop.step()
    snapshot = take_snapshot(loop.scheduler)
    pages = unrolled(snapshot.pages)
    assert len(pages) == 39
    assert [page for page, (owner, _) in enumerate(pages, 1) if owner == 7] == request.pages
    assert not any(shared for _, shared in pages)
    (state,) = snapshot.running
    assert (state.request_id, state.num_prompt, state.num_output) == (7, 3 * PAGE + 5, 0)
    assert (state.num_computed, state.num_pages, state.max_tokens) == (3 * PAGE + 5, 4, 2)
    loop.run()
    owners = [owner for owner, _ in unrolled(take_snapshot(loop.scheduler).pages)]
    assert owners.count(CACHED) == 3  # the fourth is not full
    assert owners.count(FREE) == 36


def test_what_comes_from_the_cache_is_marked(step_loop, make_request):
    loop = step_loop()
    prompt = make_request(1, 2 * PAGE + 9).prompt_ids
    loop.add(make_request(1, prompt, max_tokens=1))
    loop.run()
    first = loop.add(make_request(2, prompt, max_tokens=9))
    loop.step()
    second = loop.add(make_request(3, prompt, max_tokens=9))
    loop.step()
    assert first.pages[:2] == second.pages[:2]
    snapshot = take_snapshot(loop.scheduler)
    pages = dict(enumerate(unrolled(snapshot.pages), 1))
    assert [pages[page] for page in first.pages] == [(2, True), (2, True), (2, False)]
    assert pages[second.pages[2]] == (3, False)
    assert [state.num_cached for state in snapshot.running] == [2 * PAGE, 2 * PAGE]


def test_only_the_head_of_a_long_queue_is_told(step_loop, make_request):
    loop = step_loop()
    for number in range(MAX_WAITING + 9):
        loop.add(make_request(number, 5))
    loop.step()
    snapshot = take_snapshot(loop.scheduler)
    assert len(snapshot.running) == 4
    assert [state.request_id for state in snapshot.waiting] == list(range(4, 4 + MAX_WAITING))
    assert all(state.num_pages == 0 for state in snapshot.waiting)


def test_runs_say_the_same_as_pages_one_by_one(make_request):
    random = np.random.default_rng(3)
    for _ in range(20):
        order = random.permutation(np.arange(1, 200)).tolist()
        requests = []
        for number in range(1, 6):
            request = make_request(number, 5)
            request.pages = [order.pop() for _ in range(random.integers(0, 30))]
            requests.append(request)
        known = order[: random.integers(0, len(order))]
        expected = [(FREE, False)] * 200
        for page in known:
            expected[page] = (CACHED, False)
        for request in requests:
            for page in request.pages:
                expected[page] = (request.request_id, False)
        runs = page_runs(200, known, requests, page_size=PAGE)
        assert unrolled(runs) == expected[1:]
        coded = list(zip(runs.owners, runs.shared, strict=True))
        assert all(a != b for a, b in zip(coded, coded[1:], strict=False))
