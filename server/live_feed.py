"""What the live view shows, made while somebody looks, and once for all who do."""

import asyncio
import time
from typing import Any

import msgspec

from server.metrics import Metrics
from server.served_model import ServedModel
from server.sse import event
from server.status_routes import installed_version

PERIOD = 0.25
FIRST_TOKEN = "vllm:time_to_first_token_seconds"
STEP = "ggjax:step_seconds"
# what the charts need of them
SAMPLES = [f"{name}_{part}" for name in (FIRST_TOKEN, STEP) for part in ("sum", "count")]


class LiveFeed:
    """Moments of the engine as events of a stream; nothing is asked while nobody waits."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._making: asyncio.Task[bytes] | None = None
        self._begun = 0.0

    async def moment(self, model: ServedModel) -> bytes:
        """The present state; calls within one period share it.

        Raises:
            EngineDied: the engine is gone.
            ShuttingDown: the server ends.
        """
        now = time.monotonic()
        if self._making is None or (self._making.done() and now - self._begun >= 0.9 * PERIOD):
            self._begun = now
            self._making = asyncio.create_task(self._make(model))
        return await asyncio.shield(self._making)  # one who leaves takes it from nobody

    async def _make(self, model: ServedModel) -> bytes:
        snapshot = await model.engine.snapshot()
        return event(
            {
                "time": time.monotonic(),
                "stats": model.engine.stats,
                "pages": snapshot.pages,
                "running": snapshot.running,
                "waiting": snapshot.waiting,
            }
            | self._times()
        )

    def _times(self) -> dict[str, Any]:
        """Running sums and counts, of steps by the name of the bucket; readers take differences."""
        first: dict[str, float] = {}
        steps: dict[str, dict[str, float]] = {}
        for family in self._metrics.registry.restricted_registry(SAMPLES).collect():
            for sample in family.samples:
                name, _, part = sample.name.rpartition("_")
                found = steps.setdefault(sample.labels["bucket"], {}) if name == STEP else first
                found[part] = sample.value
        return {"first_token": first, "steps": steps}


def facts(model: ServedModel) -> dict[str, Any]:
    """What does not change while the server runs."""
    info: dict[str, Any] = msgspec.to_builtins(model.info)
    return info | {
        "model_name": model.names[0],
        "kv_tokens": model.info.kv_tokens,
        "version": installed_version(),
        "started": model.created,
    }
