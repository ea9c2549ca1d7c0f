"""How engines end: exit codes, the error of one that did not start, the words for the log."""

import signal

EXIT_USAGE = 2
EXIT_ENGINE = 70


class EngineNotStarted(RuntimeError):
    """The engine refused to start; one line for the operator, and the exit code for it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def ending(code: int | None) -> str:
    """How a process ended, in words; None for one that goes on."""
    if code is None:
        return "closed its connection"
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
