"""The host's books of the KV pages: which are free, who uses the others, what they hold."""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence


class PagePool:
    """Pages 1 … num_pages - 1; page 0 is never given out, since padding reads it. O(1) a call.

    A page is free or has references, never both. A free page may still hold the keys and values of
    the tokens it is hashed by: it can be shared again until it is given to somebody else, the one
    unused for longest first.
    """

    def __init__(self, num_pages: int):
        if num_pages < 2:
            raise ValueError(f"a page pool needs at least 2 pages, got {num_pages}")
        self.num_pages = num_pages
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_pages))
        self._references: dict[int, int] = {}
        self._page_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Pages that nobody refers to."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Pages that somebody refers to."""
        return len(self._references)

    @property
    def known(self) -> Collection[int]:
        """Pages, used or free, whose tokens are known by their hash."""
        return self._hash_of.keys()

    def num_references(self, page: int) -> int:
        """How many requests use a page."""
        return self._references.get(page, 0)

    def allocate(self) -> int:
        """A page for new tokens; what it held is forgotten. Needs `num_free` > 0."""
        page, _ = self._free.popitem(last=False)
        self.forget(page)
        self._references[page] = 1
        return page

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """Pages of the longest known prefix of a chain of hashes."""
        found = []
        for page_hash in hashes:
            page = self._page_of.get(page_hash)
            if page is None:
                break
            found.append(page)
        return found

    def num_free_among(self, pages: Sequence[int]) -> int:
        """How many of these pages would leave the free list when shared."""
        return sum(page in self._free for page in pages)

    def share(self, page: int) -> None:
        """One more reference to a page that `find` returned."""
        if page in self._free:
            del self._free[page]
            self._references[page] = 1
        else:
            self._references[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """One reference less to each page of a request, given in the order of its tokens."""
        # the last pages first: a prefix is worth more than what follows it
        for page in reversed(pages):
            self._references[page] -= 1
            if self._references[page] == 0:
                del self._references[page]
                self._free[page] = None
                if page not in self._hash_of:
                    self._free.move_to_end(page, last=False)

    def register(self, page: int, page_hash: bytes) -> None:
        """The page now holds the tokens of this hash; the first page of a hash is kept."""
        assert page in self._references
        if page_hash not in self._page_of and page not in self._hash_of:
            self._page_of[page_hash] = page
            self._hash_of[page] = page_hash

    def forget(self, page: int) -> None:
        """The page can be shared no more."""
        page_hash = self._hash_of.pop(page, None)
        if page_hash is not None:
            del self._page_of[page_hash]

    def check(self) -> None:
        """Asserts that free and referenced pages partition the pool."""
        assert not self._free.keys() & self._references.keys()
        assert self._free.keys() | self._references.keys() == set(range(1, self.num_pages))
        assert all(count > 0 for count in self._references.values())
        assert self._page_of == {h: page for page, h in self._hash_of.items()}
