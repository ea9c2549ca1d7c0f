"""Decides which requests get how many tokens of the next step, and which pages."""

from collections import deque

from runtime.errors import RequestError
from runtime.page_hash import extend_hashes
from runtime.page_pool import PagePool
from runtime.request import Request, TokenOutput
from runtime.step_plan import Draft, Limits, SampledToken, Scheduled, StepPlan


class Scheduler:
    """Two lists, waiting and running, and one number a request, `num_computed`, that catches up.

    The oldest come first. A step holds every running request that misses one token, then as much of
    the others' missing tokens as fits. When pages run out, the youngest gives all of its up and
    waits at the front of the queue, to be computed again.
    """

    def __init__(self, limits: Limits, pool: PagePool, *, prefix_caching: bool = True):
        self.limits = limits
        self.pool = pool
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.num_preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self._prefix_caching = prefix_caching
        self._free_slots = list(range(limits.num_slots))[::-1]

    @property
    def has_work(self) -> bool:
        """Whether any request has not ended."""
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """Queues a request.

        Raises:
            RequestError: it can never fit.
        """
        tokens = min(
            (self.pool.num_pages - 1) * self.limits.page_size,
            self.limits.pages_per_request * self.limits.page_size,
        )
        # the last token is never computed: nothing follows it
        if request.max_total_tokens - 1 > tokens:
            raise RequestError(
                f"{len(request.prompt_ids)} prompt tokens and {request.max_tokens} more cannot fit "
                f"in the {tokens} tokens of the KV pool",
                param="max_tokens",
                code="context_length_exceeded",
            )
        self.waiting.append(request)

    def schedule(self) -> StepPlan | None:
        """The next step, or None when no request can advance.

        Advances `num_computed` and counts the tokens in flight; the results belong to `update`.
        """
        draft = Draft(self.limits)
        preempted = self._continue_running(draft)
        if not preempted:  # who just gave pages up must not get them back in the same step
            self._admit(draft)
        if not draft.rows and not draft.chunks:
            return None
        for item in draft.rows + draft.chunks:
            item.request.num_computed += item.num_tokens
            item.request.num_in_flight += item.samples
            # known by name from the next step on; it is written by then
            self._register_pages(item.request)
        return StepPlan(tuple(draft.rows), tuple(draft.chunks), tuple(draft.page_updates))

    def update(self, plan: StepPlan, tokens: list[SampledToken]) -> list[TokenOutput]:
        """Books the results of a plan: one token for each of `plan.samples`, in that order."""
        outputs = []
        for item, token in zip(plan.samples, tokens, strict=True):
            request = item.request
            request.num_in_flight -= 1
            if request.finish_reason is None:  # else it ended while this token was in flight
                outputs.append(self._book(request, token))
        return outputs

    def abort(self, request: Request) -> TokenOutput | None:
        """Ends a request at once, wherever it is; None if it has ended already."""
        if request.finish_reason is not None:
            return None
        self._finish(request, "abort")
        return TokenOutput(request.request_id, None, finish_reason="abort")

    def check(self) -> None:
        """Asserts that pages and slots are where the books say."""
        self.pool.check()
        held = [page for request in self.running for page in request.pages]
        for page in set(held):
            assert self.pool.num_references(page) == held.count(page), page
        assert self.pool.num_used == len(set(held))
        slots = self._free_slots + [r.slot for r in self.running if r.slot is not None]
        assert sorted(slots) == list(range(self.limits.num_slots))
        assert all(not r.pages and r.slot is None for r in self.waiting)

    def _book(self, request: Request, token: SampledToken) -> TokenOutput:
        if not token.finite:
            # by name: a request that was preempted meanwhile has given its pages back
            for page_hash in request.page_hashes:
                for page in self.pool.find([page_hash]):
                    self.pool.forget(page)
            self._finish(request, "error")
            return TokenOutput(
                request.request_id,
                None,
                finish_reason="error",
                error="the model's scores are not finite numbers",
            )
        request.output_ids.append(token.token_id)
        self._register_pages(request)
        num_output = len(request.output_ids)
        if token.token_id in request.stop_ids and num_output >= request.params.min_tokens:
            self._finish(request, "stop")
        elif num_output >= request.max_tokens:
            self._finish(request, "length")
        return TokenOutput(
            request.request_id,
            token.token_id,
            token.logprob,
            token.top_logprobs,
            request.finish_reason,
            num_cached_tokens=request.num_cached_tokens,
        )

    def _finish(self, request: Request, reason: str) -> None:
        request.finish_reason = reason
        if request.slot is None:
            self.waiting.remove(request)
        else:
            self.running.remove(request)
            self._vacate(request)

    def _vacate(self, request: Request) -> None:
        """Gives slot and pages back."""
        assert request.slot is not None
        self._free_slots.append(request.slot)
        request.slot = None
        self.pool.release(request.pages)
        request.pages = []
        request.num_registered = 0

    def _continue_running(self, draft: Draft) -> bool:
        """Adds running requests, oldest first; whether one had to be preempted."""
        rows_ahead = sum(_wants_one(request) for request in self.running)
        preempted = False
        index = 0
        while index < len(self.running):
            request = self.running[index]
            rows_ahead -= _wants_one(request)
            num_tokens = 0
            if _wants(request):
                num_tokens = draft.room(request.num_missing, rows_ahead=rows_ahead)
            if num_tokens:
                # the youngest is after this one in the list, or this one itself
                while not self._has_pages(request, num_tokens) and len(self.running) > index:
                    victim = self.running[-1]
                    rows_ahead -= victim is not request and _wants_one(victim)
                    self._preempt(victim)
                    preempted = True
                if len(self.running) == index:
                    break
                self._add(draft, request, num_tokens, admitted=False)
            index += 1
        return preempted

    def _has_pages(self, request: Request, num_tokens: int) -> bool:
        return self._pages_short(request, num_tokens) <= self.pool.num_free

    def _pages_short(self, request: Request, num_tokens: int) -> int:
        """Pages that a request still needs, to have `num_tokens` more computed."""
        needed = -(-(request.num_computed + num_tokens) // self.limits.page_size)
        return max(0, needed - len(request.pages))

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self._vacate(request)
        request.num_computed = 0
        request.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(request)

    def _admit(self, draft: Draft) -> None:
        """Moves requests from waiting to running while slots, blocks and pages last."""
        # what the running ones still need to reach their last known token is promised to them
        promised = sum(self._pages_short(r, r.num_missing) for r in self.running)
        # a step carries the page numbers of one full row besides those that it fills itself
        shared_room = self.limits.pages_per_request
        while self.waiting and self._free_slots:
            request = self.waiting[0]
            if request.num_in_flight:  # preempted; its last token comes with the next update
                return
            shared = self._shared_pages(request)
            num_computed = len(shared) * self.limits.page_size
            num_missing = request.num_tokens - num_computed
            num_tokens = draft.room(num_missing, rows_ahead=0)
            pages = -(-(request.num_tokens + 1) // self.limits.page_size)
            pages = min(pages, -(-(request.max_total_tokens - 1) // self.limits.page_size))
            needed = pages - len(shared) + self.pool.num_free_among(shared)
            if not num_tokens or needed + promised > self.pool.num_free:
                return
            if len(shared) > shared_room:
                return
            shared_room -= len(shared)
            self.waiting.popleft()
            self.running.append(request)
            request.slot = self._free_slots.pop()
            self._take_shared(draft, request, shared)
            self._add(draft, request, num_tokens, admitted=True)
            promised += self._pages_short(request, num_missing)

    def _shared_pages(self, request: Request) -> list[int]:
        """Pages of the prefix cache that hold the request's first tokens; never all of them."""
        if not self._prefix_caching:
            return []
        self._extend_hashes(request, request.num_tokens - 1)
        usable = (request.num_tokens - 1) // self.limits.page_size
        return self.pool.find(request.page_hashes[:usable])

    def _take_shared(self, draft: Draft, request: Request, shared: list[int]) -> None:
        assert request.slot is not None
        for index, page in enumerate(shared):
            self.pool.share(page)
            draft.page_updates.append((request.slot, index, page))
        request.pages = shared
        request.num_registered = len(shared)
        request.num_computed = len(shared) * self.limits.page_size
        if self._prefix_caching and request.num_preemptions == 0:
            request.num_cached_tokens = request.num_computed
            self.prefix_queries += request.num_tokens
            self.prefix_hits += request.num_computed

    def _add(self, draft: Draft, request: Request, num_tokens: int, *, admitted: bool) -> None:
        assert request.slot is not None
        for _ in range(self._pages_short(request, num_tokens)):
            page = self.pool.allocate()
            draft.page_updates.append((request.slot, len(request.pages), page))
            request.pages.append(page)
        draft.add(
            Scheduled(
                request=request,
                slot=request.slot,
                start=request.num_computed,
                num_tokens=num_tokens,
                samples=num_tokens == request.num_missing,
                admitted=admitted,
            )
        )

    def _register_pages(self, request: Request) -> None:
        """Lets others find the full pages whose tokens are known and computed."""
        if not self._prefix_caching or request.slot is None:
            return
        upto = min(request.num_computed, request.num_known)
        done = upto // self.limits.page_size
        if done == request.num_registered:
            return
        self._extend_hashes(request, upto)
        for index in range(request.num_registered, done):
            self.pool.register(request.pages[index], request.page_hashes[index])
        request.num_registered = done

    def _extend_hashes(self, request: Request, upto: int) -> None:
        size = self.limits.page_size
        if upto // size > len(request.page_hashes):
            extend_hashes(
                request.page_hashes,
                request.token_ids,
                cache_salt=request.cache_salt,
                page_size=size,
                upto=upto,
            )


def _wants(request: Request) -> bool:
    """Whether there is something to compute; the last token of all is never computed."""
    return request.num_missing > 0 and request.num_tokens < request.max_total_tokens


def _wants_one(request: Request) -> bool:
    return request.num_missing == 1 and _wants(request)
