"""One line for each finished call (`--log-requests`): counts, time and ending, never a text."""

import logging
import time
from collections.abc import Iterable

logger = logging.getLogger(__name__)


def log_finished(
    request_id: str, *, num_prompt: int, num_output: int, arrival: float, reasons: Iterable[str]
) -> None:
    """Logs a call.

    Args:
        arrival: when it came, by `time.monotonic`.
        reasons: how its answers ended.
    """
    logger.info(
        "%s: %d prompt tokens, %d output tokens, %.0f ms, %s",
        request_id,
        num_prompt,
        num_output,
        1000 * (time.monotonic() - arrival),
        ", ".join(sorted(set(reasons))),
    )
