"""A start's stages as bars, in the terminal and on a page."""

import os

import jax

from profiling.page import heading, page, paragraph, stacked_bars, table
from profiling.start_times import StartTimes
from profiling.table import number, text_table

AUTOTUNE_OFF = "--xla_gpu_autotune_level=0"


def start_text(times: StartTimes, autotune: str, *, width: int) -> str:
    """A bar for each stage, of the longest `width` characters."""
    longest = max(times.stages.values())
    lines = [_about(times), ""]
    for stage, seconds in times.stages.items():
        bar = "█" * round(width * seconds / longest) if longest else ""
        lines.append(f"{stage:12}{seconds:8.2f} s  {bar}")
    lines += ["", _threads(times), autotune, "", text_table(*_slowest(times))]
    return "\n".join(lines)


def start_page(times: StartTimes, autotune: str) -> str:
    """The same, self-contained HTML."""
    total = sum(times.stages.values())
    rows = [
        [stage, number(seconds), number(100 * seconds / total)]
        for stage, seconds in times.stages.items()
    ]
    return page(
        f"Start of {times.model}",
        [
            paragraph(_about(times)),
            stacked_bars("A start, in seconds", {"start": times.stages}, unit="s"),
            table(["stage", "s", "%"], rows),
            paragraph(f"{_threads(times)} {autotune}."),
            heading("Programs that took longest to compile"),
            table(*_slowest(times)),
        ],
    )


def autotune_text(times: StartTimes, untuned: float | None) -> str:
    """What autotuning took, or why that is not known.

    Args:
        untuned: seconds of compiling of a start without it; None: there was none.
    """
    if jax.default_backend() == "cpu":
        return "autotuning: – (XLA tunes nothing on CPUs)"
    if AUTOTUNE_OFF in os.environ.get("XLA_FLAGS", ""):
        return "autotuning: none (XLA_FLAGS)"
    if untuned is None:
        return "autotuning: a part of compile; --autotune measures it by a second start"
    seconds = max(0.0, times.stages["compile"] - untuned)
    return f"autotuning: {seconds:.1f} s of compile, by a start without it"


def _about(times: StartTimes) -> str:
    return (
        f"{times.model} on {times.device}, {number(times.num_bytes, 2**20)} MiB: "
        f"{number(sum(times.stages.values()))} s; {times.num_programs} programs, "
        f"{times.num_cached} of them from an earlier start"
    )


def _threads(times: StartTimes) -> str:
    return (
        f"Compiling took {number(times.compile_sum)} s in all threads together; the start waited "
        f"{number(times.stages['compile'])} s for it."
    )


def _slowest(times: StartTimes) -> tuple[list[str], list[list[str]]]:
    rows = [
        [name, number(seconds), "hit" if cached else "miss"]
        for name, seconds, cached in times.slowest
    ]
    return ["program", "compile s", "cache"], rows
