"""Pages are free or in use, never both, and what they hold is found until others get them."""

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.page_pool import PagePool


def name(number: int) -> bytes:
    return number.to_bytes(4, "big")


def test_a_pool_needs_a_page_to_give():
    with pytest.raises(ValueError, match="at least 2 pages, got 1"):
        PagePool(1)


def test_page_0_is_never_given_out():
    pool = PagePool(5)
    assert sorted(pool.allocate() for _ in range(4)) == [1, 2, 3, 4]
    assert (pool.num_free, pool.num_used) == (0, 4)


def test_a_released_page_is_free_when_its_last_user_is_gone():
    pool = PagePool(3)
    page = pool.allocate()
    pool.register(page, name(1))
    pool.share(page)
    assert pool.num_references(page) == 2
    pool.release([page])
    assert (pool.num_references(page), pool.num_free) == (1, 1)
    pool.release([page])
    assert (pool.num_references(page), pool.num_free) == (0, 2)


def test_a_free_page_can_still_be_found_and_shared():
    pool = PagePool(4)
    page = pool.allocate()
    pool.register(page, name(1))
    pool.release([page])
    assert pool.find([name(1)]) == [page]
    assert pool.num_free_among([page]) == 1
    pool.share(page)
    assert pool.num_free_among([page]) == 0
    assert pool.num_references(page) == 1
    pool.check()


def test_only_the_unbroken_prefix_is_found():
    pool = PagePool(6)
    pages = [pool.allocate() for _ in range(3)]
    for number, page in enumerate(pages):
        pool.register(page, name(number))
    assert pool.find(map(name, [0, 1, 2, 3])) == pages
    pool.forget(pages[1])
    assert pool.find(map(name, [0, 1, 2])) == pages[:1]
    assert pool.find([]) == []


def test_a_page_given_to_somebody_else_is_found_no_more():
    pool = PagePool(2)
    page = pool.allocate()
    pool.register(page, name(1))
    pool.release([page])
    assert pool.allocate() == page
    assert pool.find([name(1)]) == []


def test_the_longest_unused_content_goes_first():
    pool = PagePool(4)
    pages = [pool.allocate() for _ in range(3)]
    for number, page in enumerate(pages):
        pool.register(page, name(number))
    for index in (1, 2, 0):
        pool.release([pages[index]])
    assert [pool.allocate() for _ in range(3)] == [pages[1], pages[2], pages[0]]


def test_sharing_makes_content_young_again():
    pool = PagePool(4)
    pages = [pool.allocate() for _ in range(3)]
    for number, page in enumerate(pages):
        pool.register(page, name(number))
        pool.release([page])
    pool.share(pages[0])
    pool.release([pages[0]])
    assert [pool.allocate() for _ in range(3)] == [pages[1], pages[2], pages[0]]


def test_the_end_of_a_request_goes_before_its_beginning():
    pool = PagePool(4)
    pages = [pool.allocate() for _ in range(3)]
    for number, page in enumerate(pages):
        pool.register(page, name(number))
    pool.release(pages)
    assert pool.allocate() == pages[2]
    assert pool.find(map(name, range(3))) == pages[:2]


def test_pages_without_content_worth_keeping_go_first():
    pool = PagePool(4)
    hashed, plain, _ = (pool.allocate() for _ in range(3))
    pool.register(hashed, name(1))
    pool.release([hashed])
    pool.release([plain])
    assert pool.allocate() == plain
    assert pool.find([name(1)]) == [hashed]


def test_the_first_page_of_a_content_is_kept():
    pool = PagePool(4)
    first, second = pool.allocate(), pool.allocate()
    pool.register(first, name(1))
    pool.register(second, name(1))
    assert pool.find([name(1)]) == [first]
    pool.register(first, name(2))  # it holds what it held
    assert pool.find([name(1)]) == [first]
    assert pool.find([name(2)]) == []
    pool.check()


class PoolMachine(RuleBasedStateMachine):
    """Requests that take, share, name and give back pages, beside a plain model of the books."""

    def __init__(self):
        super().__init__()
        self.pool = PagePool(6)
        self.requests: list[list[int]] = []
        self.content: dict[bytes, int] = {}
        self.freed: list[int] = []  # named free pages, the longest unused first

    def references(self, page: int) -> int:
        return sum(request.count(page) for request in self.requests)

    @rule()
    def begin(self):
        self.requests.append([])

    @precondition(lambda self: self.requests and self.pool.num_free)
    @rule(data=st.data())
    def allocate(self, data):
        named = set(self.content.values())
        plain = [p for p in range(1, 6) if not self.references(p) and p not in named]
        page = self.pool.allocate()
        if plain:
            assert page in plain
        else:
            assert page == self.freed[0], "not the one unused for longest"
        if page in self.freed:
            self.freed.remove(page)
        self.content = {key: value for key, value in self.content.items() if value != page}
        data.draw(st.sampled_from(self.requests)).append(page)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), number=st.integers(0, 7))
    def find_and_share(self, data, number):
        found = self.pool.find([name(number)])
        assert found == [page for key, page in self.content.items() if key == name(number)]
        request = data.draw(st.sampled_from(self.requests))
        for page in found:
            assert self.pool.num_free_among([page]) == (self.references(page) == 0)
            self.pool.share(page)
            request.append(page)
            if page in self.freed:
                self.freed.remove(page)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def release(self, data):
        request = data.draw(st.sampled_from(self.requests))
        self.requests.remove(request)
        self.pool.release(request)
        for page in reversed(request):
            if not self.references(page) and page not in self.freed:
                if page in self.content.values():
                    self.freed.append(page)

    @precondition(lambda self: any(self.requests))
    @rule(data=st.data(), number=st.integers(0, 7))
    def register(self, data, number):
        page = data.draw(st.sampled_from([p for request in self.requests for p in request]))
        self.pool.register(page, name(number))
        if name(number) not in self.content and page not in self.content.values():
            self.content[name(number)] = page

    @rule(page=st.integers(1, 5))
    def forget(self, page):
        if not self.references(page):  # as the scheduler does: of pages in use only
            return
        self.pool.forget(page)
        self.content = {key: value for key, value in self.content.items() if value != page}

    @invariant()
    def the_books_agree(self):
        self.pool.check()
        used = {page for request in self.requests for page in request}
        assert self.pool.num_used == len(used)
        assert self.pool.num_free == 5 - len(used)
        for page in range(6):
            assert self.pool.num_references(page) == self.references(page)
        for key, page in self.content.items():
            assert self.pool.find([key]) == [page]


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnySequenceKeepsTheBooks = PoolMachine.TestCase
