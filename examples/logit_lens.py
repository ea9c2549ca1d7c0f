"""Logit lens: what each layer's residual stream already says of the next token.

The residual stream after every layer is captured inside the served step, for all tokens of the
prompt at once, and read through the final norm and the output matrix as if the model ended there.
The first layer often repeats what it has read; the answer appears in the last one.

    python -m examples.logit_lens
"""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

from ggjax import LLM, SamplingParams

PROMPT = "def f(left, right):\n    return left -"


def main(llm: LLM, directory: Path) -> np.ndarray:
    """Draws the likeliest token of every layer and place; their probabilities [layers, tokens]."""
    (output,) = llm.generate(PROMPT, SamplingParams(max_tokens=1), capture=["layers.*.resid_post"])
    layers = list(output.captured.values())
    lens = jax.jit(llm.model.unembed)
    shares = np.stack([jax.nn.softmax(lens(llm.params, layer), axis=-1) for layer in layers])
    best = shares.argmax(axis=-1)

    num_layers, num_tokens = best.shape
    figure, axes = plt.subplots(figsize=(1.1 * num_tokens, 0.55 * num_layers + 1.2))
    image = axes.imshow(shares.max(axis=-1), vmin=0, vmax=1, cmap="YlGnBu", aspect="auto")
    for layer, place in np.ndindex(best.shape):
        dark = shares[layer, place, best[layer, place]] > 0.6
        axes.text(
            place,
            layer,
            _shown(llm, best[layer, place]),
            ha="center",
            va="center",
            color="w" if dark else "k",
        )
    axes.set_xticks(range(num_tokens), [_shown(llm, i) for i in output.prompt_token_ids])
    axes.set_yticks(range(num_layers), [f"layer {i}" for i in range(num_layers)])
    axes.invert_yaxis()
    axes.set_xlabel("token read")
    axes.set_title("likeliest next token, layer by layer")
    figure.colorbar(image, label="probability")
    picture = directory / "logit_lens.svg"
    figure.savefig(picture, bbox_inches="tight")
    plt.close(figure)
    print(picture)
    return shares.max(axis=-1)


def _shown(llm: LLM, token_id: int) -> str:
    text = repr(llm.detokenize([token_id]))[1:-1].replace(" ", "·")
    return text if len(text) <= 7 else text[:6] + "…"


if __name__ == "__main__":
    with LLM("demo", max_model_len=512) as llm:
        main(llm, Path())
