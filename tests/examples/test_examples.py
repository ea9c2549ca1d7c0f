"""Every example, and what docs/research.md and the notebook show, runs and finds what it says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

matplotlib.use("Agg")

from examples import (
    activation_patching,
    logit_lens,
    perplexity,
    saliency,
    steering,
    tree_search,
)
from ggjax import LLM

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    # as in docs/research.md and tests/model/test_demo.py: compiled once for all
    options = {"max_model_len": 1024, "max_num_seqs": 4, "max_num_batched_tokens": 128}
    with LLM("demo", dtype="float32", **options) as llm:
        yield llm


def drawn(directory: Path, name: str, *texts: str) -> None:
    text = (directory / name).read_text()
    assert text.startswith("<?xml") and text.rstrip().endswith("</svg>")
    assert len(text) > 4000
    # each text stands as a comment beside its outlines
    for expected in texts:
        assert f"<!-- {expected} -->" in text, expected


def test_the_logit_lens_ends_with_the_answer(llm: LLM, tmp_path: Path) -> None:
    shares = logit_lens.main(llm, tmp_path)
    assert shares.shape == (6, 11)
    assert shares[-1, -1] > 0.7 and ((0 < shares) & (shares <= 1)).all()
    drawn(tmp_path, "logit_lens.svg")


def test_patching_the_last_layer_restores_the_answer(llm: LLM, tmp_path: Path) -> None:
    restored = activation_patching.main(llm, tmp_path)
    assert restored.shape == (6, 11)
    assert restored[-1, -1] == pytest.approx(1, abs=1e-3)
    assert np.abs(restored[:, :2]).max() < 1e-3, "what comes before the names is the same"
    assert np.abs(restored[-1, :-1]).max() < 1e-3, "and the last layer hands nothing on"
    assert (restored[:4, 9] > 1).all() and (restored[4:, 10] > 0.99).all(), "as the script says"
    drawn(tmp_path, "activation_patching.svg", "share (1: all of it)", "·return")


def test_steering_moves_one_name_to_the_other(llm: LLM, tmp_path: Path) -> None:
    found = steering.main(llm, tmp_path)
    assert found[" np"][-1] > 3 * found[" np"][8]
    assert found[" os"][0] > 3 * found[" os"][8]
    drawn(tmp_path, "steering.svg")


def test_the_search_ends_with_its_likeliest_leaf(llm: LLM, tmp_path: Path) -> None:
    nodes = tree_search.main(llm, tmp_path)
    assert len(nodes) == 1 + 4 + 3 * 8
    leaves = [node for node in nodes if node.depth == tree_search.DEPTH]
    assert nodes[-1].score == max(node.score for node in leaves)
    assert len(nodes[-1].snapshot.token_ids) == len(nodes[0].snapshot.token_ids) + 4 * 8
    drawn(tmp_path, "tree_search.svg", "def largest(values):")


def test_saliency_finds_the_name_that_is_repeated(llm: LLM, tmp_path: Path) -> None:
    shares = saliency.main(llm, tmp_path)
    tokens = [llm.detokenize([i]) for i in llm.tokenize(saliency.PROMPT)]
    assert len(shares) == len(tokens)
    # where the definition names it
    assert tokens.index(" second") in np.argsort(-np.abs(shares))[:4]
    drawn(tmp_path, "saliency.svg", "token read", "·return")


def test_fewer_bits_cost_perplexity(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "tree_search.py").read_text()
    found = perplexity.main(text, tmp_path, {Type.Q8_0: 8.5, Type.Q4_0: 4.5})
    assert 1 < found[Type.Q8_0] < found[Type.Q4_0] < 1000
    drawn(tmp_path, "perplexity.svg", "type, bits a weight", f"{found[Type.Q4_0]:.3f}")


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
