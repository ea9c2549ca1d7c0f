"""What docs/research.md and the notebook show is run, from the first line to the last."""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest

matplotlib.use("Agg")

ROOT = Path(__file__).resolve().parents[2]


def run(snippets: list[str], names: dict[str, Any]) -> None:
    for number, snippet in enumerate(snippets, start=1):
        exec(compile(snippet, f"snippet {number}", "exec"), names)


def test_every_snippet_of_the_document_runs() -> None:
    text = (ROOT / "docs" / "research.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(snippets) >= 8
    names: dict[str, Any] = {}
    run(snippets, names)
    assert names["llm"].engine.scheduler.pool.num_used == 0
    names["llm"].close()


def test_the_document_names_every_site() -> None:
    from models.sites import _AFTER, _BEFORE, _IN_LAYER

    text = (ROOT / "docs" / "research.md").read_text()
    for site in (*_BEFORE, *_IN_LAYER, *_AFTER):
        assert f"`{site}`" in text or f"`layers.i.{site}`" in text, site


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_the_notebook_runs() -> None:
    cells = json.loads((ROOT / "examples" / "tour.ipynb").read_text())["cells"]
    assert all(not cell.get("outputs") for cell in cells), "a notebook is kept without its results"
    names: dict[str, Any] = {}
    run(["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"], names)
    names["plt"].close("all")
    names["llm"].close()
