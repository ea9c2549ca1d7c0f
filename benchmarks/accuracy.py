"""How close the model's log-probabilities are to llama.cpp's: greedy paths and perplexity.

python -m benchmarks.accuracy MODEL --goldens DIR [--dtype float32]
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.config import model_config
from models.gguf_file import open_gguf
from models.kv_cache import BLOCK_Q, ModelInput, make_paged_attention
from models.load import load_model
from models.mesh import make_mesh
from models.qwen2 import Qwen2
from pallas_kernels.paged_attention import paged_attention
from runtime.model_runner import empty_cache

CHUNK = 512  # tokens that are scored at once at most
PADDED_TO = 128


class Scorer:
    """Log-probabilities of given tokens, by the forward pass and the paged attention that serve."""

    def __init__(self, model_path: Path, dtype: str):
        file = open_gguf(model_path)
        config = model_config(file)
        mesh = make_mesh(1)
        model = load_model(file, config, mesh, dtype=dtype)
        activations = model.decoder.embedding[...].dtype
        # page 0 is never written
        self._cache = empty_cache(
            config, mesh, num_pages=CHUNK // BLOCK_Q + 1, dtype=jnp.dtype(activations)
        )
        self._graph, self._state = nnx.split(model)
        self._run = jax.jit(self._log_probs)

    def log_probs(self, token_ids: list[int]) -> np.ndarray:
        """[T, V] float32: row i is the distribution of the token after the first i + 1."""
        # few lengths, so few compilations
        padded = np.zeros(-(-len(token_ids) // PADDED_TO) * PADDED_TO, np.int32)
        padded[: len(token_ids)] = token_ids
        rows = self._run(self._state, self._cache, padded, len(token_ids))
        return np.asarray(rows)[: len(token_ids)]

    def _log_probs(self, state: Any, cache: Any, token_ids: Any, length: Any) -> Any:
        model: Qwen2 = nnx.merge(self._graph, state)
        place = jnp.arange(token_ids.shape[0])
        blocks = jnp.arange(token_ids.shape[0] // BLOCK_Q)
        step = ModelInput(
            token_ids=token_ids,
            positions=jnp.where(place < length, place, -1),
            slots=jnp.zeros_like(place),
            blocks=jnp.where(blocks * BLOCK_Q < length, 0, -1),
            page_table=1 + blocks[None],
        )
        attention = make_paged_attention(step, paged_attention)
        hidden, _ = model.decoder(token_ids, place, attention, cache)
        return jax.nn.log_softmax(model.head(hidden), axis=-1)


@dataclass(frozen=True)
class GreedyStep:
    """One step along a path of llama.cpp's.

    Attributes:
        error: our log-probability of its token less its own.
        agrees: whether our best token is the same.
        margin: how far its own best two were apart.
    """

    error: float
    agrees: bool
    margin: float


def greedy_steps(scorer: Scorer, cases: list[dict[str, Any]]) -> Iterator[GreedyStep]:
    """Every step of every path."""
    for case in cases:
        prompt, tokens = case["prompt_ids"], case["tokens"]
        rows = scorer.log_probs((prompt + tokens)[:CHUNK])[len(prompt) - 1 :]
        for row, token, logprob, top in zip(
            rows, tokens, case["logprob"], case["top_logprobs"], strict=False
        ):
            yield GreedyStep(
                error=float(row[token]) - logprob,
                agrees=int(row.argmax()) == token,
                margin=top[0] - top[1],
            )


def perplexity(scorer: Scorer, token_ids: list[int]) -> float:
    """llama.cpp's figure: chunks of 512, the second half of each scored."""
    losses: list[float] = []
    for start in range(0, len(token_ids) - CHUNK + 1, CHUNK):
        chunk = token_ids[start : start + CHUNK]
        rows = scorer.log_probs(chunk)
        scored = range(CHUNK // 2, CHUNK - 1)
        losses += [-float(rows[i][chunk[i + 1]]) for i in scored]
    return math.exp(sum(losses) / len(losses))


def main() -> None:
    """Prints the figures of docs/accuracy.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--goldens", type=Path, required=True)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "int8"])
    options = parser.parse_args()
    scorer = Scorer(options.model, options.dtype)
    cases = json.loads((options.goldens / "greedy_f32_nofa_kvf32.json").read_text())["cases"]
    steps = list(greedy_steps(scorer, cases))
    errors = np.abs([step.error for step in steps])
    different = [step.margin for step in steps if not step.agrees]
    print(f"greedy, {len(steps)} steps of {len(cases)} paths, {options.dtype}")
    print(f"  |Δ log p|: mean {errors.mean():.6f}, max {errors.max():.6f} nats")
    print(f"  other best token: {len(different)} steps, margins {sorted(different)[-5:]}")
    reference = json.loads((options.goldens / "ppl.json").read_text())
    ours = perplexity(scorer, reference["tokens"])
    theirs = reference["results"]["F32"]["ppl"]
    print(f"perplexity {ours:.4f}, llama.cpp F32 {theirs:.4f}: {100 * (ours / theirs - 1):+.3f} %")


if __name__ == "__main__":
    main()
