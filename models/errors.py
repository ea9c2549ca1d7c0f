"""The one error of loading a model: what is wrong with which file, where."""

from pathlib import Path


class ModelFileError(ValueError):
    """A model file that cannot be served; the message is meant for the operator.

    Args:
        problem: what is wrong, in a phrase ("file is 12 bytes short").
        path: the file, where one is known.
        subject: the key or tensor it is about ("tensor 'output.weight'").
        offset: the byte of the file where the problem was seen.
    """

    def __init__(
        self,
        problem: str,
        *,
        path: Path | None = None,
        subject: str | None = None,
        offset: int | None = None,
    ) -> None:
        self.problem = problem
        self.path = path
        self.subject = subject
        self.offset = offset
        parts = [str(part) for part in (path, subject, problem) if part is not None]
        where = "" if offset is None else f" (at byte {offset:,})"
        super().__init__(": ".join(parts) + where)
