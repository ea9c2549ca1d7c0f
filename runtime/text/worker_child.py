"""A worker process seen from inside: framed messages over its stdin, and limits on itself."""

import resource
import socket
import struct
from collections.abc import Callable

MAX_OPEN_FILES = 16
MAX_REQUEST_BYTES = 512 << 20
LENGTH = struct.Struct("<I")


def run(
    answer: Callable[[bytes], bytes], *, ready: bytes, max_bytes: int, cpu_seconds: int
) -> None:
    """Answers requests from stdin, a socket, until the parent closes its end.

    Args:
        answer: a reply for a request.
        ready: the first message.
        max_bytes: address space that the process may have.
        cpu_seconds: processor time for one request; the parent's deadline comes first unless the
            parent is gone.
    """
    limit_process(max_bytes)
    with socket.socket(fileno=0) as stdin:
        serve(stdin, answer, ready=ready, cpu_seconds=cpu_seconds)


def serve(
    channel: socket.socket, answer: Callable[[bytes], bytes], *, ready: bytes, cpu_seconds: int
) -> None:
    """`run` on a socket, without limits on memory and files."""
    send(channel, ready)
    while (message := receive(channel, MAX_REQUEST_BYTES)) is not None:
        limit_cpu(cpu_seconds)
        send(channel, answer(message))


def limit_process(max_bytes: int) -> None:
    """Bounds memory, files and core dumps of this process for good."""
    for kind, limit in (
        (resource.RLIMIT_AS, max_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def limit_cpu(seconds: int) -> None:
    """Gives the next request its processor time; an orphan with a bomb ends by itself."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, hard))


def receive(channel: socket.socket, max_bytes: int) -> bytes | None:
    """One message, or None when the other end has closed.

    Raises:
        ConnectionError: the message is longer than `max_bytes`.
    """
    header = _exactly(channel, LENGTH.size)
    if header is None:
        return None
    (length,) = LENGTH.unpack(header)
    if length > max_bytes:
        raise ConnectionError(f"a message of {length:,} bytes; at most {max_bytes:,} are allowed")
    return _exactly(channel, length)


def send(channel: socket.socket, message: bytes) -> None:
    """Sends one message, its length first."""
    channel.sendall(LENGTH.pack(len(message)) + message)


def _exactly(channel: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        part = channel.recv(min(count - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)
