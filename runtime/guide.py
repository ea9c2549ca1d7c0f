"""What the engine asks of whatever constrains an answer."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from runtime.structured_outputs import StructuredOutputs


class Guide(Protocol):
    """Follows one answer, token by token.

    Attributes:
        is_finished: the answer is complete: it ends with the token accepted last.
        error: why the guide cannot go on, in words for the caller; None while it can.
    """

    @property
    def is_finished(self) -> bool: ...

    @property
    def error(self) -> str | None: ...

    def fill(self, mask: np.ndarray) -> None:
        """Writes the allowed tokens, one bit each, little-endian, into int32 [ceil(V / 32)]."""

    def accept(self, token_id: int) -> None:
        """The token was chosen."""


# raises RequestError for a form that cannot be served
type MakeGuide = Callable[[StructuredOutputs], Guide]
