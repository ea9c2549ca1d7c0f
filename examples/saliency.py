"""Saliency by gradients: which tokens of the prompt the next one depends on.

The served weights are an ordinary function of JAX, so the gradient of one answer's lead over
another with respect to the embeddings of the prompt is one `jax.grad`. Its product with the
embeddings gives each token's share, to first order.

    python -m examples.saliency
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from ggjax import LLM

PROMPT = "import numpy as np\n\ndef add(first, second):\n    return first +"
ANSWER, OTHER = " second", " first"


def main(llm: LLM, directory: Path) -> np.ndarray:
    """Draws the share of each token; returns them."""
    tokens = jnp.array(llm.tokenize(PROMPT))
    answer, other = (llm.tokenize(text)[0] for text in (ANSWER, OTHER))
    params = llm.params

    @jax.jit
    def lead(embeddings: jax.Array, params: dict[str, jax.Array]) -> jax.Array:
        logits, _ = llm.model.forward(params, tokens, embeddings=embeddings)
        return logits[-1, answer] - logits[-1, other]

    embeddings = params["embedding"][tokens].astype(jnp.float32)
    shares = np.asarray((jax.grad(lead)(embeddings, params) * embeddings).sum(axis=-1))

    figure, axes = plt.subplots(figsize=(8, 3.2))
    names = [repr(llm.detokenize([i]))[1:-1].replace(" ", "·") for i in tokens.tolist()]
    axes.bar(range(len(names)), shares, color=["C0" if x > 0 else "C3" for x in shares])
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", family="monospace")
    axes.axhline(0, color="k", linewidth=0.6)
    axes.set_ylabel("gradient × embedding")
    axes.set_xlabel("token read")
    axes.set_title(
        f"what speaks for {ANSWER!r} (blue) and for {OTHER!r} (red), "
        f"which is {lead(embeddings, params):.1f} behind"
    )
    picture = directory / "saliency.svg"
    figure.savefig(picture, bbox_inches="tight")
    plt.close(figure)
    print(picture)
    return shares


if __name__ == "__main__":
    with LLM("demo", max_model_len=512) as llm:
        main(llm, Path())
