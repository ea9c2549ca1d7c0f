"""Counts what JAX compiles and what it finds in the persistent cache."""

import threading
from typing import Any

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
FOUND = "/jax/compilation_cache/cache_hits"


class CompileLog:
    """Listens from its making on; `num_compiled` includes what the cache answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.num_compiled = 0
        self.num_cached = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            with self._lock:
                self.num_compiled += 1

    def _on_event(self, event: str, **_: Any) -> None:
        if event == FOUND:
            with self._lock:
                self.num_cached += 1

    def close(self) -> None:
        """Stops listening."""
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)
