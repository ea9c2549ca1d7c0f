"""Log probabilities in the two shapes that OpenAI has for them."""

import math
from collections.abc import Sequence
from typing import Any

from runtime.text.answer import ScoredToken
from runtime.text.tokenizer import Tokenizer

LOWEST = -9999.0  # JSON has no infinity


def completion_logprobs(scored: Sequence[ScoredToken], tokenizer: Tokenizer) -> dict[str, Any]:
    """The shape of /v1/completions: four lists. The chosen token is among the alternatives."""
    tokens, logprobs, top, offsets = [], [], [], []
    for one in scored:
        output = one.output
        assert output.token_id is not None
        text = _text(output.token_id, tokenizer)
        tokens.append(text)
        logprobs.append(_finite(output.logprob))
        best = {_text(i, tokenizer): _finite(logprob) for i, logprob in output.top_logprobs}
        top.append({text: _finite(output.logprob)} | best)
        offsets.append(one.offset)
    return {
        "tokens": tokens,
        "token_logprobs": logprobs,
        "top_logprobs": top,
        "text_offset": offsets,
    }


def chat_logprobs(scored: Sequence[ScoredToken], tokenizer: Tokenizer) -> dict[str, Any]:
    """The shape of /v1/chat/completions: one object a token."""

    def entry(token_id: int, logprob: float | None) -> dict[str, Any]:
        return {
            "token": _text(token_id, tokenizer),
            "logprob": _finite(logprob),
            "bytes": list(tokenizer.token_bytes(token_id)),
        }

    content = []
    for one in scored:
        output = one.output
        assert output.token_id is not None
        top = [entry(token_id, logprob) for token_id, logprob in output.top_logprobs]
        content.append(entry(output.token_id, output.logprob) | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def _text(token_id: int, tokenizer: Tokenizer) -> str:
    return tokenizer.token_bytes(token_id).decode("utf-8", errors="replace")


def _finite(logprob: float | None) -> float:
    assert logprob is not None, "asked for log probabilities, the engine gives them"
    return logprob if math.isfinite(logprob) else LOWEST
