"""How programs are made: read from an earlier start, or lowered and compiled, many at a time."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import Any

from runtime.lowering import LoweringFailed, LoweringProcess, lower_alike
from runtime.program_store import ProgramStore
from runtime.recipe import Recipe

FOR_A_PROCESS = 4  # programs: it takes as long to start as to lower two or three
FIRST = 2  # programs that are lowered meanwhile

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made[Key: Hashable]:
    """Programs, and how many of them the store had; recipes of those that are still to be read.

    `lower_seconds`: until the last of the others was lowered.
    """

    programs: dict[Key, Any]
    num_stored: int
    lower_seconds: float
    later: dict[Key, Recipe]


def make_all[Key: Hashable](
    recipes: Mapping[Key, Recipe],
    *,
    num_threads: int,
    num_processes: int,
    device: Any,
    store: ProgramStore | None,
    may_wait: Collection[Key] = (),
) -> Made[Key]:
    """The programs, from the store or compiled; what it had not is written to it.

    Tracing and lowering hold the interpreter and are done in processes; threads compile.

    Args:
        num_processes: that lower; 0: all is lowered here.
        device: which they lower for.
        may_wait: those that are left for later if the store has them.
    """
    later = {
        key: recipe
        for key, recipe in recipes.items()
        if key in may_wait and store is not None and store.has(recipe.name, recipe.arguments)
    }
    with ThreadPoolExecutor(num_threads) as pool:
        stored = {
            key: pool.submit(_read, recipe, store)
            for key, recipe in recipes.items()
            if key not in later
        }
        found = {key: future.result() for key, future in stored.items()}
        missing = {key: recipes[key] for key, program in found.items() if program is None}
        begin = time.monotonic()
        with ExitStack() as opened:
            count = min(num_processes, len(missing) // FOR_A_PROCESS)
            made = _compile(missing, pool, device, _start(device, count, opened), store)
        lower_seconds = time.monotonic() - begin
        # in the order of the recipes
        programs = {key: found[key] or made[key].result() for key in found}
    return Made(programs, len(found) - len(missing), lower_seconds, later)


def _start(device: Any, count: int, opened: ExitStack) -> list[LoweringProcess]:
    """As many processes as the system allows."""
    processes = []
    try:
        for _ in range(count):
            processes.append(opened.enter_context(LoweringProcess(device)))
    except OSError as error:
        logger.warning("fewer processes lower programs: %s", error)
    return processes


def _compile[Key: Hashable](
    missing: Mapping[Key, Recipe],
    pool: ThreadPoolExecutor,
    device: Any,
    processes: Sequence[LoweringProcess],
    store: ProgramStore | None,
) -> dict[Key, Future[Any]]:
    """Lowers all, here and in the processes, and has the pool compile them."""
    waiting = deque(missing.items())
    # programs share the kernels whose bytes are the same
    here = partial(lower_alike, device) if processes else Recipe.lower
    made: dict[Key, Future[Any]] = {}

    def work(lower: Callable[[Recipe], Any], takes: Iterable[Callable[[], Any]]) -> None:
        for take in takes:
            try:
                key, recipe = take()
            except IndexError:
                return
            try:
                lowered = lower(recipe)
            except LoweringFailed as failure:
                logger.warning("fewer processes lower programs: %s", failure)
                waiting.append((key, recipe))
                return
            except BaseException:
                waiting.clear()  # the others need not go on
                raise
            made[key] = pool.submit(_compile_and_keep, lowered, recipe, store)

    with ThreadPoolExecutor(max(1, len(processes))) as helpers:
        others = [
            helpers.submit(work, process.lower, repeat(waiting.popleft)) for process in processes
        ]
        # the first ones while the processes start, then from the end, where they are small
        ends = FIRST if processes else len(missing)
        work(here, chain(repeat(waiting.popleft, ends), repeat(waiting.pop)))
        for other in others:
            other.result()
    work(here, repeat(waiting.popleft))  # what a process left that failed at the end
    return made


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


def _compile_and_keep(lowered: Any, recipe: Recipe, store: ProgramStore | None) -> Any:
    program = lowered.compile()
    if store is not None:  # while others are lowered: that is what a start waits for
        store.save(recipe.name, recipe.arguments, program)
    return program
