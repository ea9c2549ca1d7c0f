"""Decides which requests get how many tokens of the next step, and which pages."""

import itertools
from bisect import insort
from collections.abc import Sequence

import numpy as np

from runtime.engine_request import Request
from runtime.errors import RequestError
from runtime.kv_snapshot import KVSnapshot
from runtime.page_pool import PagePool
from runtime.request import TokenOutput
from runtime.request_pages import RequestPages
from runtime.step_plan import Draft, Limits, SampledToken, Scheduled, StepPlan, reported
from runtime.step_results import book_scores, book_states, book_token


class Scheduler:
    """Two lists, waiting and running, and one number a request, `num_computed`, that catches up.

    Both are in order of priority (lower first), then of arrival. A step holds every running request
    that misses one token, then as much of the others' missing tokens as fits. When pages run out,
    the last gives all of its up and waits at its place in the queue, to be computed again.

    With `batch_invariant` each token is computed in one way alone: a prompt's in query blocks, an
    answer's as rows, never both in a step. A request is admitted when its whole length fits, so
    that none is computed again, and only pages of prompts are shared.
    """

    def __init__(
        self,
        limits: Limits,
        pool: PagePool,
        *,
        prefix_caching: bool = True,
        batch_invariant: bool = False,
    ):
        self.limits = limits
        self.pool = pool
        self.pages = RequestPages(
            pool,
            page_size=limits.page_size,
            prefix_caching=prefix_caching,
            prompts_only=batch_invariant,
        )
        self._batch_invariant = batch_invariant
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.num_preemptions = 0
        self._free_slots = list(range(limits.num_slots))[::-1]
        self._arrivals = itertools.count()

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
        request.arrival = next(self._arrivals)
        self._queue(request)

    def schedule(self) -> StepPlan | None:
        """The next step, or None when no request can advance.

        Advances `num_computed` and counts the tokens in flight; the results belong to `update`.
        """
        draft = Draft(self.limits, self._num_blocks())
        if self._batch_invariant:
            self._schedule_apart(draft)
        elif not self._continue_running(draft):
            # who just gave pages up must not get them back in the same step
            self._admit(draft)
        if not draft.rows and not draft.chunks:
            return None
        for item in itertools.chain(draft.rows, draft.chunks):
            request = item.request
            request.num_computed += item.num_tokens
            if item.samples:
                request.num_tokens += 1
                request.num_in_flight += 1
            if item.reported:
                request.num_reported = item.reported.stop
            # known by name from the next step on; it is written by then
            self.pages.register(request)
        return StepPlan(
            tuple(draft.rows),
            tuple(draft.chunks),
            tuple(draft.page_updates),
            tuple(draft.page_copies),
        )

    def update(
        self, plan: StepPlan, tokens: Sequence[SampledToken], states: Sequence[np.ndarray] = ()
    ) -> list[TokenOutput]:
        """Books the results of a plan.

        Args:
            tokens: one for each of `plan.samples`, in that order, then one for each reported
                position of `plan.scored`.
            states: float32 [D] for each reported position of `plan.pooled`.
        """
        outputs: list[TokenOutput | None] = []
        num_samples = len(plan.samples)
        scores = iter(tokens[num_samples:])
        for item in plan.scored:
            request = item.request
            own_scores = list(itertools.islice(scores, len(item.reported)))
            if request.finish_reason is None:
                outputs.append(self._end_by(request, book_scores(request, own_scores, self.pages)))
        rows = iter(states)
        for item in plan.pooled:
            request = item.request
            own_states = [next(rows) for _ in item.reported]
            request.num_in_flight -= item.samples
            if request.finish_reason is None:
                output = book_states(request, own_states, self.pages, are_last=item.samples)
                outputs.append(self._end_by(request, output))
        for item, token in zip(plan.samples, tokens[:num_samples], strict=True):
            request = item.request
            request.num_in_flight -= 1
            if request.finish_reason is None:  # else it ended while this token was in flight
                outputs.append(self._end_by(request, book_token(request, token, self.pages)))
        return [output for output in outputs if output is not None]

    def abort(self, request: Request) -> TokenOutput | None:
        """Ends a request at once, wherever it is; None if it has ended already."""
        if request.finish_reason is not None:
            return None
        self._finish(request, "abort")
        return TokenOutput(request.request_id, None, finish_reason="abort")

    def check(self) -> None:
        """Asserts that pages and slots are where the books say."""
        self.pages.check(self.running)
        slots = self._free_slots + [r.slot for r in self.running if r.slot is not None]
        assert sorted(slots) == list(range(self.limits.num_slots))
        assert all(not r.pages and r.slot is None for r in self.waiting)

    def _end_by(self, request: Request, output: TokenOutput | None) -> TokenOutput | None:
        """Ends the request if its output says so; the output."""
        if output is not None and output.finish_reason is not None:
            self._finish(request, output.finish_reason)
        return output

    def _finish(self, request: Request, reason: str) -> None:
        request.finish_reason = reason
        if request.kept is not None and request.slot is not None:
            computed = min(request.num_computed, request.num_known)
            kept = KVSnapshot(self.pool, request.pages, request.token_ids, computed)
            request.kept.append(kept)
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
        self.pages.release(request)

    def _queue(self, request: Request) -> None:
        insort(self.waiting, request, key=lambda r: r.rank)

    def _num_blocks(self) -> int:
        """Query blocks of the next step."""
        if self._batch_invariant:
            return self.limits.num_blocks
        num_writing = sum(request.num_missing == 1 for request in self.running)
        num_waiting = len(self.running) - num_writing
        num_waiting += min(len(self.waiting), len(self._free_slots))
        return self.limits.blocks_beside(num_writing, num_waiting)

    def _schedule_apart(self, draft: Draft) -> None:
        """Prompts while there are any, then rows."""
        for request in self.running:
            if _in_prompt(request) and (room := draft.block_room(request, request.num_computed)):
                self._add(draft, request, room, admitted=False)
        self._admit(draft)
        if not draft.chunks:
            for request in self.running:
                if request.wants:
                    self._add(draft, request, 1, admitted=False)

    def _pages_to_come(self, request: Request) -> int:
        """Pages that a running request is still promised."""
        if self._batch_invariant:  # all that it can ever need
            left = request.max_total_tokens - 1 - request.num_computed
            return self.pages.num_short(request, left)
        return self.pages.num_short(request, request.num_missing)

    def _continue_running(self, draft: Draft) -> bool:
        """Adds running requests in their order; whether one had to be preempted."""
        wanting = [request for request in self.running if request.wants]
        rows_ahead = sum(request.num_missing == 1 for request in wanting)
        preempted = False
        for request in wanting:
            if request.slot is None:  # preempted for one before it
                continue
            rows_ahead -= request.num_missing == 1
            num_tokens = draft.room(request, request.num_computed, rows_ahead=rows_ahead)
            if not num_tokens:
                continue
            # the last in order is after this one in the list, or this one itself
            while self.pages.num_short(request, num_tokens) > self.pool.num_free:
                victim = self.running[-1]
                rows_ahead -= victim is not request and victim.wants and victim.num_missing == 1
                self._preempt(victim)
                preempted = True
                if victim is request:
                    return True
            self._add(draft, request, num_tokens, admitted=False)
        return preempted

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self._vacate(request)
        request.num_computed = 0
        request.num_preemptions += 1
        self.num_preemptions += 1
        self._queue(request)

    def _admit(self, draft: Draft) -> None:
        """Moves requests from waiting to running while slots, blocks and pages last."""
        if not self.waiting or not self._free_slots:
            return
        # what the running ones still need to reach their last known token is promised to them
        promised = sum(self._pages_to_come(r) for r in self.running)
        # a step carries the page numbers of one full row besides those that it fills itself
        shared_room = self.limits.pages_per_request
        while self.waiting and self._free_slots:
            request = self.waiting[0]
            if request.num_in_flight:  # preempted; its last token comes with the next update
                return
            shared, num_computed = self.pages.find_shared(request)
            longest = request.max_total_tokens - 1
            if self._batch_invariant:
                num_tokens = draft.block_room(request, num_computed)
                pages = self.pages.num_needed(longest)
            else:
                num_tokens = draft.room(request, num_computed, rows_ahead=0)
                pages = self.pages.num_needed(min(request.num_tokens + 1, longest))
            needed = pages - len(shared) + self.pool.num_free_among(shared)
            if not num_tokens or needed + promised > self.pool.num_free:
                return
            if len(shared) > shared_room:
                return
            shared_room -= len(shared)
            del self.waiting[0]
            insort(self.running, request, key=lambda r: r.rank)
            request.slot = self._free_slots.pop()
            updates, copies = self.pages.share(request, shared, num_computed)
            draft.page_updates += updates
            draft.page_copies += copies
            self._add(draft, request, num_tokens, admitted=True)
            promised += self._pages_to_come(request)

    def _add(self, draft: Draft, request: Request, num_tokens: int, *, admitted: bool) -> None:
        assert request.slot is not None
        draft.page_updates += self.pages.extend(request, num_tokens)
        start = request.num_computed
        draft.add(
            Scheduled(
                request,
                request.slot,
                start,
                num_tokens,
                start + num_tokens == request.num_tokens,
                admitted,
                reported(request, start, num_tokens),
            ),
            as_block=self._batch_invariant and _in_prompt(request),
        )


def _in_prompt(request: Request) -> bool:
    """Whether the next token to compute is one of the prompt."""
    return request.num_computed < len(request.prompt_ids)
