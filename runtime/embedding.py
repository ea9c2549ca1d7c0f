"""Embeddings of prompts, by the engine's own steps."""

from collections.abc import Mapping

import numpy as np

from runtime.engine import Engine
from runtime.errors import RequestError
from runtime.request import SamplingParams, TokenOutput


def embed(
    engine: Engine, prompts: Mapping[int, list[int]], *, pooling: str, normalize: bool
) -> dict[int, tuple[np.ndarray, TokenOutput]]:
    """The embedding of each prompt, float32 [D], and the output that brought it.

    Args:
        prompts: token ids by the id of their request.
        pooling: "last" or "mean" of the hidden states behind the final norm.
        normalize: scales each to length 1.

    Raises:
        RequestError: a prompt cannot be served, or its hidden states are not finite.
    """
    outputs: dict[int, TokenOutput] = {}
    try:
        for request_id, ids in prompts.items():
            engine.add(request_id, ids, SamplingParams(), pooling=pooling)
        while len(outputs) < len(prompts):
            outputs |= {o.request_id: o for o in engine.step() if o.request_id in prompts}
    finally:
        for request_id in prompts:
            engine.abort(request_id)
        while engine.has_work:
            engine.step()
    return {
        request_id: (_vector(outputs[request_id], normalize), outputs[request_id])
        for request_id in prompts
    }


def _vector(output: TokenOutput, normalize: bool) -> np.ndarray:
    if output.embedding is None:
        raise RequestError(output.error or "the request was aborted", param="prompts")
    vector = np.frombuffer(output.embedding, np.float32)
    return vector / max(float(np.linalg.norm(vector)), 1e-12) if normalize else vector
