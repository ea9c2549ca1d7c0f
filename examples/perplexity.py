"""Perplexity of a text by quantisation type: what fewer bits cost.

The demonstration model is written once more in each type, loaded as a plain function, and scores
the same text. No engine is started. Where a type with fewer bits comes out ahead, the text was too
short to tell the two apart.

    python -m examples.perplexity [TEXT_FILE]
"""

import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from gguf import GGMLQuantizationType as Type

from benchmarks.requantize import requantize
from models import demo
from models.gguf_file import open_gguf
from runtime.experiments.pure_model import load_pure_model
from runtime.text.tokenizer import build_tokenizer

# bits of a weight, with its share of the scales
TYPES = {Type.F16: 16.0, Type.Q8_0: 8.5, Type.Q5_1: 6.0, Type.Q5_0: 5.5, Type.Q4_0: 4.5}
WINDOW = 256


def perplexity(path: Path, token_ids: list[int]) -> float:
    """exp of the mean negative log-probability of each token after its window's first."""
    model = load_pure_model(path)
    count = len(token_ids) // WINDOW
    windows = jnp.array(token_ids[: count * WINDOW]).reshape(count, WINDOW)

    # the weights are an argument: one program for files of all types
    @jax.jit
    def loss(params: dict[str, jax.Array], window: jax.Array) -> jax.Array:
        logits, _ = model.forward(params, window)
        logprobs = jax.nn.log_softmax(logits[:-1], axis=-1)
        return -jnp.take_along_axis(logprobs, window[1:, None], axis=1).mean()

    return float(np.exp(np.mean([loss(model.params, window) for window in windows])))


def main(text: str, directory: Path, types: dict[Type, float] = TYPES) -> dict[Type, float]:
    """Draws perplexity against bits; returns it by type."""
    token_ids = build_tokenizer(open_gguf(demo.PATH).metadata).encode(text, parse_special=False)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind in types:
            path = requantize(demo.PATH, Path(scratch) / f"{kind.name}.gguf", kind)
            found[kind] = perplexity(path, token_ids)

    figure, axes = plt.subplots(figsize=(6, 3.6))
    axes.plot(range(len(types)), list(found.values()), "o")
    for place, value in enumerate(found.values()):
        offset = {"xytext": (0, 6), "textcoords": "offset points"}
        axes.annotate(f"{value:.3f}", (place, value), ha="center", **offset)
    axes.set_xticks(range(len(types)), [f"{kind.name}\n{bits}" for kind, bits in types.items()])
    axes.set_xlabel("type, bits a weight")
    axes.set_ylabel("perplexity")
    axes.set_title(f"{len(token_ids):,} tokens, demonstration model")
    axes.margins(0.15)
    picture = directory / "perplexity.svg"
    figure.savefig(picture, bbox_inches="tight")
    plt.close(figure)
    print(picture)
    return found


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("tree_search.py")
    main(source.read_text(), Path())
