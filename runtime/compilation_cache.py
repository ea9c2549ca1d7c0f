"""The folder that keeps what was compiled between starts: a step's programs, XLA's own cache."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from runtime.program_store import ProgramStore

LEAST_KEPT = "jax_persistent_cache_min_compile_time_secs"


def use_compilation_cache(directory: str | None) -> None:
    """Has XLA keep what loading compiles, and what experiments do. It checks that entries fit."""
    if directory is None:
        return
    folder = str(Path(directory) / "xla")
    if folder != jax.config.jax_compilation_cache_dir:
        reset_cache()  # else what was compiled before in this process decides which folder it is
    jax.config.update("jax_compilation_cache_dir", folder)
    # by default only what took a second is kept; a start needs all of it
    jax.config.update(LEAST_KEPT, 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@contextmanager
def not_kept_by_xla() -> Iterator[None]:
    """Where a step's programs are compiled, which are the store's.

    On CPUs a program that XLA has read from its cache is broken when it is written again.
    """
    least = getattr(jax.config, LEAST_KEPT)
    jax.config.update(LEAST_KEPT, math.inf)
    try:
        yield
    finally:
        jax.config.update(LEAST_KEPT, least)


def program_store(
    directory: str | None, devices: Iterable[Any], *facts: Any
) -> ProgramStore | None:
    """Programs of earlier starts from the same facts; None: nothing is kept."""
    if directory is None:
        return None
    return ProgramStore(Path(directory) / "programs", list(devices), *facts)
