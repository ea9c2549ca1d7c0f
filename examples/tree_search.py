"""Tree search with forked contexts: sample branches, keep the likeliest, go on from there.

Each node of the tree is a snapshot of its keys and values. Its children fork it: they share its
full pages and copy the last one, so that only what is new is computed. The search keeps the two
likeliest leaves of each depth; red is the way to the likeliest in the end.

    python -m examples.tree_search
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt

from ggjax import LLM, KVSnapshot, SamplingParams

PROMPT = "def largest(values):\n"
DEPTH, WIDTH, KEPT, TOKENS = 4, 4, 2, 8


@dataclass(frozen=True)
class Node:
    """A place in the tree: `parent` is an index, `score` the sum of log-probabilities."""

    snapshot: KVSnapshot
    text: str
    score: float
    depth: int
    parent: int | None


def main(llm: LLM, directory: Path) -> list[Node]:
    """Draws the tree; its nodes, the likeliest leaf last."""
    nodes = [Node(llm.snapshot(PROMPT), "", 0.0, 0, None)]
    frontier = [0]
    for depth in range(1, DEPTH + 1):
        forks = [fork for i in frontier for fork in llm.fork(nodes[i].snapshot, WIDTH)]
        params = [
            SamplingParams(max_tokens=TOKENS, seed=100 * depth + i, logprobs=0, ignore_eos=True)
            for i in range(len(forks))
        ]
        outputs = llm.generate(forks, params, keep_kv=True)
        first = len(nodes)
        for i, output in enumerate(outputs):
            (answer,) = output.outputs
            parent = frontier[i // WIDTH]
            score = nodes[parent].score + answer.cumulative_logprob
            nodes.append(Node(answer.snapshot, answer.text, score, depth, parent))
        leaves = sorted(range(first, len(nodes)), key=lambda i: -nodes[i].score)
        frontier = leaves[:KEPT]

    best = []
    place: int | None = frontier[0]
    while place is not None:
        best.append(place)
        place = nodes[place].parent
    _draw(nodes, best, directory)
    return [node for i, node in enumerate(nodes) if i != best[0]] + [nodes[best[0]]]


def _draw(nodes: list[Node], best: list[int], directory: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 5))
    for i, node in enumerate(nodes):
        color, order = ("C3", 3) if i in best else ("0.7", 2)
        if node.parent is not None:
            parent = nodes[node.parent]
            places = [parent.depth, node.depth], [parent.score, node.score]
            axes.plot(*places, color=color, zorder=order)
        axes.plot(node.depth, node.score, "o", color=color, zorder=order)
    axes.set_xticks(range(DEPTH + 1))
    axes.set_xlabel(f"depth, {TOKENS} tokens each")
    axes.set_ylabel("log-probability of the completion")
    found = PROMPT + "".join(nodes[i].text for i in reversed(best))
    axes.set_title(found, loc="left", family="monospace", fontsize=9, color="C3", parse_math=False)
    picture = directory / "tree_search.svg"
    figure.savefig(picture, bbox_inches="tight")
    plt.close(figure)
    print(picture)


if __name__ == "__main__":
    with LLM("demo", max_model_len=512) as llm:
        main(llm, Path())
