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
    num_stored = 0
    with ThreadPoolExecutor(num_threads) as pool:
        stored = {key: pool.submit(_read, recipe, store) for key, recipe in recipes.items()}
        for key, recipe in recipes.items():
            if stored[key].result() is not None:
                made[key] = stored[key]
                num_stored += 1
            else:
                lowered = recipe.jit().lower(*recipe.arguments)
                made[key] = pool.submit(_compile, lowered, recipe, store)
        programs = {key: future.result() for key, future in made.items()}
    if store is not None:
        store.prune()
    return programs, num_stored


def _read(recipe: Recipe, store: ProgramStore | None) -> Any:
    if store is None:
        return None
    return store.load(recipe.name, recipe.arguments, recipe.result)


def _compile(lowered: Any, recipe: Recipe, store: ProgramStore | None) -> Any:
    program = lowered.compile()
    if store is not None:  # while others are lowered: that is what a start waits for
        store.save(recipe.name, recipe.arguments, program)
    return program
