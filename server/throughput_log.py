"""Every ten seconds while there is work, one line that says how fast it goes."""

import asyncio
import logging
import time

from runtime.messages import Stats
from server.lifecycle import Lifecycle

logger = logging.getLogger(__name__)

PERIOD = 10.0


async def log_throughput(lifecycle: Lifecycle, *, period: float = PERIOD) -> None:
    """Logs until it is cancelled."""
    before, then = Stats(), time.monotonic()
    while True:
        await asyncio.sleep(period)
        model, now = lifecycle.model, time.monotonic()
        if model is None:
            continue
        stats = model.engine.stats
        if stats.steps != before.steps:
            num_pages = max(1, model.info.num_pages - 1)
            logger.info("%s", throughput_line(before, stats, now - then, num_pages))
        before, then = stats, now


def throughput_line(before: Stats, after: Stats, seconds: float, num_pages: int) -> str:
    """The line, with vLLM's words for what vLLM has too."""
    prompt = (after.prompt_tokens - before.prompt_tokens) / seconds
    generated = after.generation_tokens - before.generation_tokens
    padding = after.padding_tokens - before.padding_tokens
    slots = padding + generated + after.prompt_tokens - before.prompt_tokens
    hit_rate = after.prefix_hits / max(1, after.prefix_queries)
    return (
        f"Avg prompt throughput: {prompt:.1f} tokens/s, "
        f"Avg generation throughput: {generated / seconds:.1f} tokens/s, "
        f"Running: {after.num_running} reqs, Waiting: {after.num_waiting} reqs, "
        f"KV cache usage: {after.num_used_pages / num_pages:.1%}, "
        f"Prefix cache hit rate: {hit_rate:.1%}, "
        f"Padding: {padding / max(1, slots):.1%}, Compilations: {after.compilations}"
    )
