"""How programs are made: read from an earlier start, or lowered here and compiled in threads."""

import logging
import threading
from collections.abc import Callable, Collection, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from runtime.program_store import ProgramStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """A program that is wanted.

    Attributes:
        jit: makes the function to lower.
        arguments: arrays, or their shapes.
        result: something with the structure of what it returns.
    """

    name: str
    jit: Callable[[], Any]
    arguments: tuple[Any, ...]
    result: Any


@dataclass(frozen=True)
class Made[Key: Hashable]:
    """Programs, and how many of them the store had; recipes of those that are still to be read."""

    programs: dict[Key, Any]
    num_stored: int
    later: dict[Key, Recipe]


def make_all[Key: Hashable](
    recipes: Mapping[Key, Recipe],
    *,
    num_threads: int,
    store: ProgramStore | None,
    may_wait: Collection[Key] = (),
) -> Made[Key]:
    """The programs, from the store or compiled; what it had not is written to it.

    Lowers here, since tracing holds the interpreter, and compiles in threads, which does not.

    Args:
        may_wait: those that are left for later if the store has them.
    """
    later = {
        key: recipe
        for key, recipe in recipes.items()
        if key in may_wait and store is not None and store.has(recipe.name, recipe.arguments)
    }
    now = {key: recipe for key, recipe in recipes.items() if key not in later}
    made: dict[Key, Future[Any]] = {}
    num_stored = 0
    with ThreadPoolExecutor(num_threads) as pool:
        stored = {key: pool.submit(_read, recipe, store) for key, recipe in now.items()}
        for key, recipe in now.items():
            if stored[key].result() is not None:
                made[key] = stored[key]
                num_stored += 1
            else:
                lowered = recipe.jit().lower(*recipe.arguments)
                made[key] = pool.submit(_compile, lowered, recipe, store)
        programs = {key: future.result() for key, future in made.items()}
    return Made(programs, num_stored, later)


def read_later[Key: Hashable](
    made: Made[Key], store: ProgramStore, programs: dict[Key, Any]
) -> None:
    """Has a thread read what was left for later into `programs`, one after the other."""
    if not made.later:
        return

    def read() -> None:
        for key, recipe in made.later.items():
            if not threading.main_thread().is_alive():
                return  # the process ends, which waits for this thread
            program = _read(recipe, store)
            if program is None:
                logger.warning("%s is missing: its steps are padded to others' shapes", recipe.name)
            else:
                programs[key] = program

    threading.Thread(target=read, name="read-programs").start()


def _read(recipe: Recipe, store: ProgramStore | None) -> Any:
    if store is None:
        return None
    return store.load(recipe.name, recipe.arguments, recipe.result)


def _compile(lowered: Any, recipe: Recipe, store: ProgramStore | None) -> Any:
    program = lowered.compile()
    if store is not None:  # while others are lowered: that is what a start waits for
        store.save(recipe.name, recipe.arguments, program)
    return program
