"""Gives requests their pages, and lets them share those whose tokens are the same."""

from runtime.engine_request import Request
from runtime.page_hash import extend_hashes
from runtime.page_pool import PagePool
from runtime.step_plan import PageCopy, PageUpdate


class RequestPages:
    """Between the pool, which knows pages, and the scheduler, which knows requests."""

    def __init__(self, pool: PagePool, *, page_size: int, prefix_caching: bool, prompts_only: bool):
        """`prompts_only`: pages with tokens of an answer are not for others."""
        self.pool = pool
        self.page_size = page_size
        self.prefix_queries = 0
        self.prefix_hits = 0
        self._prefix_caching = prefix_caching
        self._prompts_only = prompts_only

    def num_needed(self, num_tokens: int) -> int:
        """Pages that so many tokens fill."""
        return -(-num_tokens // self.page_size)

    def num_short(self, request: Request, num_tokens: int) -> int:
        """Pages that a request still needs, to have `num_tokens` more computed."""
        missing = request.num_computed + num_tokens - len(request.pages) * self.page_size
        return -(-missing // self.page_size) if missing > 0 else 0

    def extend(self, request: Request, num_tokens: int) -> list[PageUpdate]:
        """Allocates what is short; the rows of the page table that change."""
        updates: list[PageUpdate] = []
        for _ in range(self.num_short(request, num_tokens)):
            assert request.slot is not None
            updates.append((request.slot, len(request.pages), self.pool.allocate()))
            request.pages.append(updates[-1][2])
        return updates

    def find_shared(self, request: Request) -> tuple[list[int], int]:
        """Full pages that hold the request's first tokens, and how many tokens; never all of them.

        Those of the prefix cache; or those it continues from, and then part of a page more.
        """
        if request.origin is not None:
            num_computed = min(request.origin.num_computed, request.num_tokens - 1)
            return list(request.origin.pages[: num_computed // self.page_size]), num_computed
        if not self._prefix_caching:
            return [], 0
        upto = request.num_tokens - 1
        if request.num_reported < request.last_reported:
            # what is computed by others gives this request no scores and no hidden states
            upto = min(upto, request.num_reported)
        self._extend_hashes(request, upto)
        usable = upto // self.page_size
        shared = self.pool.find(request.page_hashes[:usable])
        return shared, len(shared) * self.page_size

    def share(
        self, request: Request, shared: list[int], num_computed: int
    ) -> tuple[list[PageUpdate], list[PageCopy]]:
        """Starts a request that has a slot with what `find_shared` returned."""
        assert request.slot is not None
        for page in shared:
            self.pool.share(page)
        request.pages = shared
        request.num_registered = len(shared)
        request.num_computed = num_computed
        copies = []
        if num_computed % self.page_size:
            assert request.origin is not None
            request.pages = [*shared, self.pool.allocate()]
            copies = [(request.origin.pages[len(shared)], request.pages[-1])]
        if self._prefix_caching and request.num_preemptions == 0:
            request.num_cached_tokens = request.num_computed
            self.prefix_queries += request.num_tokens
            self.prefix_hits += request.num_computed
        return [(request.slot, i, page) for i, page in enumerate(request.pages)], copies

    def release(self, request: Request) -> None:
        """Gives all pages of a request back."""
        self.pool.release(request.pages)
        request.pages = []
        request.num_registered = 0

    def register(self, request: Request) -> None:
        """Lets others find the full pages whose tokens are known and computed."""
        if request.num_computed // self.page_size <= request.num_registered:
            return  # as for nearly every request in every step
        upto = min(request.num_computed, request.num_known)
        if self._prompts_only:
            upto = min(upto, len(request.prompt_ids))
        done = upto // self.page_size
        if done == request.num_registered or not self._prefix_caching or request.slot is None:
            return
        self._extend_hashes(request, upto)
        for index in range(request.num_registered, done):
            self.pool.register(request.pages[index], request.page_hashes[index])
        request.num_registered = done

    def forget(self, request: Request) -> None:
        """Lets nobody find the request's pages: what they hold is spoiled."""
        # by name: a request that was preempted meanwhile has given its pages back
        for page_hash in request.page_hashes:
            for page in self.pool.find([page_hash]):
                self.pool.forget(page)

    def check(self, running: list[Request]) -> None:
        """Asserts that the pool's books are those of the running requests."""
        self.pool.check()
        held = [page for request in running for page in request.pages]
        for page in set(held):
            assert self.pool.num_references(page) == held.count(page), page
        assert self.pool.num_used == len(set(held))

    def _extend_hashes(self, request: Request, upto: int) -> None:
        if upto // self.page_size > len(request.page_hashes):
            extend_hashes(
                request.page_hashes,
                request.token_ids,
                cache_salt=request.cache_salt,
                page_size=self.page_size,
                upto=upto,
            )
