"""Commands whose output nobody reads to its end, as in `ggjax … | head`, end without a word."""

import os
import select
import sys
from collections.abc import Callable

EXIT_UNREAD = 1  # as rich has it


def run_to_exit(command: Callable[[], int | None]) -> None:
    """Runs a command and exits with its code, or with `EXIT_UNREAD` if its reader has left."""
    try:
        try:
            code = command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _has_left():  # it was another pipe
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_UNREAD
    sys.exit(code)


def _has_left() -> bool:
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in output.poll(0))
