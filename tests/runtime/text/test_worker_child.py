"""Framing and limits of a worker process, from inside."""

import socket
import time

import pytest

from runtime.text import worker_child


def test_it_serves_until_the_other_end_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    # This process has used more processor time than a child may.
    monkeypatch.setattr(worker_child, "limit_cpu", lambda seconds: None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker_child.send(ours, b"abc")
        ours.shutdown(socket.SHUT_WR)
        worker_child.serve(theirs, bytes.upper, ready=b"ready", cpu_seconds=1)
        assert [worker_child.receive(ours, 1000) for _ in range(2)] == [b"ready", b"ABC"]


def test_a_message_over_its_limit_is_not_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker_child.send(ours, b"x" * 100)
        with pytest.raises(ConnectionError, match="100 bytes; at most 99"):
            worker_child.receive(theirs, 99)


def test_half_a_message_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(worker_child.LENGTH.pack(10) + b"half")
        assert worker_child.receive(theirs, 100) is None


def test_a_request_has_its_own_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(worker_child.resource, "setrlimit", lambda kind, pair: limits.append(pair))
    worker_child.limit_cpu(2)
    used = time.process_time()
    assert used + 1 < limits[0][0] < used + 5
    worker_child.limit_process(1 << 29)
    assert (1 << 29, 1 << 29) in limits
