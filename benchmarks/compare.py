"""Result files beside each other: each figure, and its ratio to the first file's."""

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from profiling.table import MISSING, number, text_table

SETTINGS = frozenset({"num_prompts", "max_concurrency", "request_rate", "burstiness"})


def compare_files(paths: Sequence[Path]) -> str:
    """A table: a line for each figure that all files have.

    Raises:
        ValueError: it is one file alone, or too many; one is no result; they share no figure.
    """
    if not 2 <= len(paths) <= len(string.ascii_uppercase):
        raise ValueError(f"compare takes 2 to 26 result files, got {len(paths)}")
    figures = [_figures(path) for path in paths]
    names = [name for name in figures[0] if all(name in other for other in figures)]
    if not names:
        raise ValueError(f"{', '.join(map(str, paths))} have no figure in common")
    letters = string.ascii_uppercase[: len(paths)]
    legend = [f"{letter}: {path}" for letter, path in zip(letters, paths, strict=True)]
    header = ["", *letters, *(f"{letter}/A" for letter in letters[1:])]
    rows = []
    for name in names:
        values = [other[name] for other in figures]
        ratios = [f"{v / values[0]:.3f}" if values[0] else MISSING for v in values[1:]]
        rows.append([name, *(number(v, digits=4) for v in values), *ratios])
    return "\n".join([*legend, "", text_table(header, rows)])


def _figures(path: Path) -> dict[str, float]:
    try:
        result: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(result, dict):
        raise ValueError(f"{path} is no result of a benchmark: not a JSON object")
    flat = result | {f"p{name}": value for name, value in result.get("percentiles", {}).items()}
    return {
        name: float(value)
        for name, value in flat.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in SETTINGS
    }
