"""What the scheduler's books say at one moment, for people to look at."""

from collections.abc import Collection, Sequence
from itertools import islice

import numpy as np

from runtime.engine_request import Request
from runtime.messages import CACHED, FREE, PageRuns, RequestState, Snapshot
from runtime.scheduler import Scheduler

MAX_WAITING = 32  # of the queue, which may hold a thousand


def take_snapshot(scheduler: Scheduler) -> Snapshot:
    """Copies the books; milliseconds for a pool of 100,000 pages."""
    pool = scheduler.pool
    return Snapshot(
        pages=page_runs(
            pool.num_pages, pool.known, scheduler.running, page_size=scheduler.limits.page_size
        ),
        running=[_state(request) for request in scheduler.running],
        waiting=[_state(request) for request in islice(scheduler.waiting, MAX_WAITING)],
    )


def page_runs(
    num_pages: int, known: Collection[int], running: Sequence[Request], *, page_size: int
) -> PageRuns:
    """Who uses the pages 1 … num_pages - 1, run-length coded.

    Args:
        known: pages whose tokens are known; those that nobody uses are CACHED.
        running: the requests that have pages, oldest first.
    """
    owners = np.full(num_pages, FREE, np.int64)
    owners[np.fromiter(known, np.int64, len(known))] = CACHED
    shared = np.zeros(num_pages, bool)
    for request in reversed(running):  # the oldest has the last word
        pages = np.array(request.pages, np.int64)
        num_hits = request.num_cached_tokens // page_size
        shared[pages] |= (owners[pages] > 0) | (np.arange(len(pages)) < num_hits)
        owners[pages] = request.request_id
    owners, shared = owners[1:], shared[1:]
    changes = (np.diff(owners) != 0) | np.diff(shared)
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
    counts = np.diff(starts, append=len(owners))
    return PageRuns(counts.tolist(), owners[starts].tolist(), shared[starts].tolist())


def _state(request: Request) -> RequestState:
    return RequestState(
        request_id=request.request_id,
        num_prompt=len(request.prompt_ids),
        num_output=len(request.output_ids),
        num_computed=request.num_computed,
        num_cached=request.num_cached_tokens,
        max_tokens=request.max_tokens,
        num_pages=len(request.pages),
        num_preemptions=request.num_preemptions,
    )
