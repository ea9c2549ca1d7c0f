"""The folder that keeps what was compiled between starts: a step's programs, XLA's own cache."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from runtime.program_store import ProgramStore

XLA_FOLDER = "ggjax-xla"


def use_compilation_cache(directory: str | None) -> None:
    """Has XLA keep what experiments compile, unless it was told of a folder. It checks entries."""
    told = jax.config.jax_compilation_cache_dir
    if directory is None or (told is not None and Path(told).name != XLA_FOLDER):
        return
    folder = str(Path(directory) / XLA_FOLDER)
    if folder != told:
        reset_cache()  # else what was compiled before in this process decides which folder it is
    jax.config.update("jax_compilation_cache_dir", folder)
    # by default only what took a second is kept; a start needs all of it
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@contextmanager
def not_through_xla() -> Iterator[None]:
    """Where a step's programs are compiled, which are the store's, not those of XLA's cache.

    On CPUs a program that XLA has read from its cache is broken when it is written again.
    """
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        reset_cache()


def program_store(
    directory: str | None, devices: Iterable[Any], *facts: Any
) -> ProgramStore | None:
    """Programs of earlier starts from the same facts; None: nothing is kept."""
    if directory is None:
        return None
    return ProgramStore(Path(directory) / "programs", list(devices), *facts)
