"""The keys and values of a context as a value: held in the pool's pages, shared by its copies."""

import weakref
from collections.abc import Sequence
from typing import Self

from runtime.page_pool import PagePool


class KVSnapshot:
    """A context whose pages stay in the pool as long as this lives. Copies share the pages.

    What continues from it reads the full pages in place and copies the last one if it is partly
    filled. Pages go back when the object is collected, or before by `release`.

    Attributes:
        token_ids: the context; what comes after the computed tokens is computed on continuing.
        num_computed: tokens whose keys and values the pages hold.
        pages: in the order of the tokens.
    """

    def __init__(
        self, pool: PagePool, pages: Sequence[int], token_ids: Sequence[int], num_computed: int
    ):
        self.token_ids = tuple(token_ids)
        self.num_computed = num_computed
        self.pages = tuple(pages)
        self._pool = pool
        for page in self.pages:
            pool.share(page)
        self._release = weakref.finalize(self, pool.release, self.pages)
        self._release.atexit = False

    @property
    def is_held(self) -> bool:
        """Whether the pages are still its own."""
        return self._release.alive

    def copy(self, *, more: Sequence[int] = (), upto: int | None = None) -> Self:
        """Another of the same pages: cut to `upto` tokens, then with `more` behind them.

        Raises:
            ValueError: it was released.
        """
        if not self.is_held:
            raise ValueError("the snapshot was released: its pages may hold something else by now")
        kept = self.token_ids[:upto]
        num_computed = min(self.num_computed, len(kept))
        return type(self)(self._pool, self.pages, (*kept, *more), num_computed)

    def release(self) -> None:
        """Gives the pages back now; later calls do nothing."""
        self._release()
