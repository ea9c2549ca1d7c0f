"""Binds the port before anything else is imported or loaded, so that a busy one fails at once."""

import socket

BACKLOG = 1024


class CannotBind(RuntimeError):
    """The address cannot be had; one line for the operator."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        CannotBind: saying which address and why.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise CannotBind(f"cannot listen on {host} port {port}: {_why(error)}") from error
    try:
        # a server that has just ended leaves connections behind, which are no reason to wait
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise CannotBind(f"cannot listen on {host} port {port}: {_why(error)}") from error
    listener.setblocking(False)
    return listener


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
