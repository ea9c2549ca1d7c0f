"""Embeddings of prompts, by the engine's own steps."""

from collections.abc import Sequence

import numpy as np

from runtime.errors import RequestError
from runtime.llm_answers import Answers
from runtime.llm_prompts import Job
from runtime.outputs import EmbeddingOutput
from runtime.request import TokenOutput


def embed(
    answers: Answers, jobs: Sequence[Job], *, pooling: str, normalize: bool
) -> list[EmbeddingOutput]:
    """The embeddings of the jobs' prompts, in their order.

    Args:
        pooling: "last" or "mean" of the hidden states behind the final norm.
        normalize: scales each to length 1.

    Raises:
        RequestError: a prompt cannot be served, or its hidden states are not finite.
    """
    return [
        EmbeddingOutput(
            request_id=str(output.request_id),
            prompt=job.text,
            prompt_token_ids=job.ids,
            embedding=_vector(output, normalize).tolist(),
            num_cached_tokens=output.num_cached_tokens,
        )
        for job, output in zip(jobs, answers.embed(jobs, pooling=pooling), strict=True)
    ]


def _vector(output: TokenOutput, normalize: bool) -> np.ndarray:
    if output.embedding is None:
        raise RequestError(output.error or "the request was aborted", param="prompts")
    vector = np.frombuffer(output.embedding, np.float32)
    return vector / max(float(np.linalg.norm(vector)), 1e-12) if normalize else vector
