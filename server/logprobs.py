"""Log probabilities in the shapes that OpenAI, and for prompts vLLM, have for them."""

import math
from collections.abc import Sequence
from typing import Any

from runtime.request import PromptLogprob
from runtime.text.answer import ScoredToken
from runtime.text.detokenizer import IncrementalDetokenizer
from runtime.text.tokenizer import Tokenizer
from server.prompts import EchoedPrompt

LOWEST = -9999.0  # JSON has no infinity

type Top = Sequence[tuple[int, float]]


def completion_logprobs(
    scored: Sequence[ScoredToken], tokenizer: Tokenizer, *, begin: int = 0
) -> dict[str, Any]:
    """The shape of /v1/completions: four lists. The chosen token is among the alternatives.

    Args:
        begin: where in the shown text the answer begins, in characters.
    """
    found = _lists()
    for one in scored:
        output = one.output
        assert output.token_id is not None and output.logprob is not None
        scores = (output.logprob, output.top_logprobs)
        _add(found, output.token_id, scores, begin + one.offset, tokenizer)
    return found


def echoed_logprobs(
    prompt: EchoedPrompt,
    scores: Sequence[PromptLogprob | None],
    tokenizer: Tokenizer,
    *,
    num_top: int,
) -> dict[str, Any]:
    """The same of a prompt's tokens; the first has no log probability."""
    found = _lists()
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special=False)
    num_chars = 0
    for number, (token_id, score) in enumerate(zip(prompt.ids, scores, strict=True)):
        known = None if score is None else (score[1], score[2][:num_top])
        _add(found, token_id, known, num_chars, tokenizer)
        if number >= prompt.num_added:
            num_chars += len(detokenizer.push((token_id,)))
    return found


def chat_logprobs(scored: Sequence[ScoredToken], tokenizer: Tokenizer) -> dict[str, Any]:
    """The shape of /v1/chat/completions: one object a token."""

    def entry(token_id: int, logprob: float | None) -> dict[str, Any]:
        assert logprob is not None, "asked for log probabilities, the engine gives them"
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


def prompt_logprobs(
    scores: Sequence[PromptLogprob | None], tokenizer: Tokenizer, *, num_top: int
) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: for each token its own and the best others by id; the first has
    none. A rank that is beyond the best others is not known."""
    return [None if score is None else _ranked(score, tokenizer, num_top) for score in scores]


def _ranked(score: PromptLogprob, tokenizer: Tokenizer, num_top: int) -> dict[str, Any]:
    token_id, logprob, top = score
    found: dict[str, Any] = {}
    for rank, (other, value) in enumerate(top[:num_top], 1):
        found[str(other)] = {"logprob": _finite(value), "rank": rank}
    found.setdefault(str(token_id), {"logprob": _finite(logprob), "rank": None})
    for name, entry in found.items():
        entry["decoded_token"] = _text(int(name), tokenizer)
    return found


def _lists() -> dict[str, Any]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _add(
    found: dict[str, Any],
    token_id: int,
    scores: tuple[float, Top] | None,
    offset: int,
    tokenizer: Tokenizer,
) -> None:
    text = _text(token_id, tokenizer)
    found["tokens"].append(text)
    found["text_offset"].append(offset)
    if scores is None:
        found["token_logprobs"].append(None)
        found["top_logprobs"].append(None)
        return
    logprob, top = scores
    found["token_logprobs"].append(_finite(logprob))
    best = {_text(i, tokenizer): _finite(value) for i, value in top}
    found["top_logprobs"].append({text: _finite(logprob)} | best)


def _text(token_id: int, tokenizer: Tokenizer) -> str:
    return tokenizer.token_bytes(token_id).decode("utf-8", errors="replace")


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LOWEST
