"""Counts what JAX compiles."""

import threading
from typing import Any

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"


class CompileLog:
    """Listens from its making on; `num_compiled` includes what XLA's cache answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.num_compiled = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            with self._lock:
                self.num_compiled += 1

    def close(self) -> None:
        """Stops listening."""
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
