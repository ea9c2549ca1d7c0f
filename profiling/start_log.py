"""What JAX says while programs are made: seconds of tracing, lowering and compiling, by name."""

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Self

import jax

from runtime.program_store import READ

KINDS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}
FOUND = "/jax/compilation_cache/cache_hits"


@dataclass
class Making:
    """Seconds of one program; `cached`: compiling was reading what an earlier start has left."""

    trace: float = 0.0
    lower: float = 0.0
    compile: float = 0.0
    cached: bool = False


class StartLog:
    """`with StartLog() as log:` listens; `log.programs` has what was made meanwhile, by name.

    What is compiled in threads overlaps: the seconds of several add up to more than passed.
    """

    def __init__(self) -> None:
        self.programs: dict[str, Making] = defaultdict(Making)
        self._lock = threading.Lock()
        self._thread = threading.local()

    def __enter__(self) -> Self:
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)

    def total(self, kind: str, names: set[str] | None = None) -> float:
        """Seconds of `trace`, `lower` or `compile`, of some programs or of all."""
        return sum(
            getattr(making, kind)
            for name, making in self.programs.items()
            if names is None or name in names
        )

    def _on_duration(self, event: str, duration_secs: float, **facts: Any) -> None:
        kind = "compile" if event == READ else KINDS.get(event)
        if kind is None:
            return
        name = str(facts.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
        with self._lock:
            making = self.programs[name]
            setattr(making, kind, getattr(making, kind) + duration_secs)
            if kind == "compile":
                # the hit was told before, in this thread
                making.cached = event == READ or getattr(self._thread, "found", False)
                self._thread.found = False

    def _on_event(self, event: str, **_: Any) -> None:
        if event == FOUND:
            self._thread.found = True
