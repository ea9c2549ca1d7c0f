"""Books what the device answered to a step: tokens, scores of prompts, and hidden states.

Each function writes into the request and returns what its caller is told. An output with a finish
reason says that the request ends here; the scheduler, which has its slot and pages, ends it.
"""

from collections.abc import Sequence

import numpy as np

from runtime.engine_request import Request
from runtime.request import TokenOutput
from runtime.request_pages import RequestPages
from runtime.step_plan import SampledToken


def book_token(request: Request, token: SampledToken, pages: RequestPages) -> TokenOutput:
    """The next token of an answer."""
    if not token.finite:
        return _spoiled(request, pages)
    token_id, guide = token.token_id, request.guide
    request.output_ids.append(token_id)
    pages.register(request)
    num_output = len(request.output_ids)
    if guide is not None:
        guide.accept(token_id)
        if guide.error is not None:
            return _failed(request, guide.error)
    finish_reason = None
    if token_id in request.stop_ids and num_output >= request.params.min_tokens:
        finish_reason = "stop"
    elif guide is not None and guide.is_finished:
        finish_reason = "stop"
    elif num_output >= request.max_tokens:
        finish_reason = "length"
    prompt_logprobs = None
    if num_output == 1 and request.params.prompt_logprobs is not None:
        num_unscored = len(request.prompt_ids) - len(request.prompt_scores)
        prompt_logprobs = (*(None,) * num_unscored, *request.prompt_scores)
    return TokenOutput(
        request.request_id,
        token_id,
        token.logprob,
        token.top_logprobs,
        finish_reason,
        num_cached_tokens=request.num_cached_tokens,
        prompt_logprobs=prompt_logprobs,
    )


def book_scores(
    request: Request, scores: Sequence[SampledToken], pages: RequestPages
) -> TokenOutput | None:
    """Scores of the prompt's next tokens; there is an output if the request ends."""
    if not all(score.finite for score in scores):
        return _spoiled(request, pages)
    for score in scores:
        assert score.logprob is not None
        request.prompt_scores.append((score.token_id, score.logprob, score.top_logprobs))
    return None


def book_states(
    request: Request, states: Sequence[np.ndarray], pages: RequestPages, *, are_last: bool
) -> TokenOutput | None:
    """Hidden states of the prompt; there is an output if the request ends.

    Args:
        states: float32 [D] each.
        are_last: the prompt ends with them, and the embedding is complete.
    """
    total = np.sum(states, axis=0, dtype=np.float64)
    request.pooled = total if request.pooled is None else request.pooled + total
    if not np.isfinite(request.pooled).all():
        return _spoiled(request, pages)
    if not are_last:
        return None
    count = len(request.prompt_ids) if request.pooling == "mean" else 1
    return TokenOutput(
        request.request_id,
        None,
        finish_reason="stop",
        num_cached_tokens=request.num_cached_tokens,
        embedding=(request.pooled / count).astype(np.float32).tobytes(),
    )


def _spoiled(request: Request, pages: RequestPages) -> TokenOutput:
    pages.forget(request)
    return _failed(request, "the model's scores are not finite numbers")


def _failed(request: Request, error: str) -> TokenOutput:
    return TokenOutput(request.request_id, None, finish_reason="error", error=error)
