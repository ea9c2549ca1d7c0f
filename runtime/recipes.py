"""How programs are made: read from an earlier start, or lowered here and compiled in threads."""

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from runtime.program_store import ProgramStore


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


def make_all[Key: Hashable](
    recipes: Mapping[Key, Recipe], *, num_threads: int, store: ProgramStore | None
) -> tuple[dict[Key, Any], int]:
    """The programs, and how many of them the store had. What it had not is written to it.

    Lowers here, since tracing holds the interpreter, and compiles in threads, which does not.
    """
    made: dict[Key, Future[Any]] = {}
    with ThreadPoolExecutor(num_threads) as pool:
        stored: dict[Key, Future[Any]] = {}
        if store is not None:
            for key, recipe in recipes.items():
                stored[key] = pool.submit(store.load, recipe.name, recipe.arguments, recipe.result)
        num_stored = 0
        for key, recipe in recipes.items():
            if key in stored and stored[key].result() is not None:
                made[key] = stored[key]
                num_stored += 1
            else:
                lowered = recipe.jit().lower(*recipe.arguments)
                made[key] = pool.submit(lowered.compile)
        programs = {key: future.result() for key, future in made.items()}
    if store is not None and num_stored < len(recipes):
        _keep(recipes, programs, store, stored)
    return programs, num_stored


def _keep[Key: Hashable](
    recipes: Mapping[Key, Recipe],
    programs: Mapping[Key, Any],
    store: ProgramStore,
    stored: Mapping[Key, Future[Any]],
) -> None:
    """Writes the new ones, behind the start's back; the process waits for it at its end."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="store-programs")
    pool.submit(store.prune)
    for key, recipe in recipes.items():
        if stored[key].result() is None:
            pool.submit(store.save, recipe.name, recipe.arguments, programs[key])
    pool.shutdown(wait=False)
