"""Spreads a load over processes, where one core cannot read all that a server sends."""

import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection

import msgspec

from benchmarks.load_client import Outcome, Planned, send_all


class Job(msgspec.Struct, frozen=True):
    """What one process does."""

    url: str
    headers: dict[str, str]
    requests: list[Planned]
    max_concurrency: int | None
    keep_text: bool


def run_load(job: Job, workers: int) -> list[Outcome]:
    """Runs a load in this process, or in several; outcomes in the order of the requests.

    Raises:
        ValueError: there are fewer than one worker.
        RuntimeError: a worker ended early.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    jobs = share_out(job, workers)
    if len(jobs) == 1:
        return _run(jobs[0], time.monotonic())
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in jobs]
    processes = [spawn.Process(target=_work, args=(theirs,)) for _, theirs in pipes]
    outcomes: list[list[Outcome]] = []
    try:
        for process, (_, theirs) in zip(processes, pipes, strict=True):
            process.start()
            theirs.close()
        for part, (ours, _) in zip(jobs, pipes, strict=True):
            ours.send_bytes(msgspec.msgpack.encode(part))
            ours.recv_bytes()  # it is ready
        begin = time.monotonic() + 0.05  # one clock for all processes of a machine
        for ours, _ in pipes:
            ours.send_bytes(msgspec.msgpack.encode(begin))
        for ours, _ in pipes:
            outcomes.append(msgspec.msgpack.decode(ours.recv_bytes(), type=list[Outcome]))
    except EOFError:
        raise RuntimeError("a worker of the benchmark ended early") from None
    finally:
        for ours, _ in pipes:
            ours.close()  # ends those that still wait
        for process in processes:
            process.join(timeout=5)
            process.kill()
    ordered: list[Outcome | None] = [None] * len(job.requests)
    for i, some in enumerate(outcomes):
        ordered[i :: len(jobs)] = some
    return [outcome for outcome in ordered if outcome is not None]


def share_out(job: Job, workers: int) -> list[Job]:
    """The job in parts: every n-th request, and a part of the concurrency of at least one."""
    limit = job.max_concurrency
    count = max(1, min(workers, len(job.requests), limit or workers))
    return [
        Job(
            url=job.url,
            headers=job.headers,
            requests=job.requests[i::count],
            max_concurrency=None if limit is None else limit // count + (i < limit % count),
            keep_text=job.keep_text,
        )
        for i in range(count)
    ]


def _work(connection: Connection) -> None:
    job = msgspec.msgpack.decode(connection.recv_bytes(), type=Job)
    connection.send_bytes(b"ready")
    begin = msgspec.msgpack.decode(connection.recv_bytes(), type=float)
    connection.send_bytes(msgspec.msgpack.encode(_run(job, begin)))


def _run(job: Job, begin: float) -> list[Outcome]:
    return asyncio.run(
        send_all(
            job.url,
            job.requests,
            headers=job.headers,
            max_concurrency=job.max_concurrency,
            begin=begin,
            keep_text=job.keep_text,
        )
    )
