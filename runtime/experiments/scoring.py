"""Log-probabilities of given continuations, by the engine's own steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.config import PAGE_SIZE
from runtime.errors import RequestError
from runtime.llm_answers import Answers
from runtime.llm_prompts import Job
from runtime.outputs import RequestOutput
from runtime.request import SamplingParams


@dataclass(frozen=True)
class Score:
    """A continuation: its tokens, the log-probability of each, and their sum."""

    token_ids: list[int]
    logprobs: list[float]

    @property
    def total(self) -> float:
        """Log-probability of the whole continuation."""
        return sum(self.logprobs)


def score(
    answers: Answers,
    prompt_ids: Sequence[int],
    continuations: Sequence[Sequence[int]],
    *,
    max_length: int,
) -> list[Score]:
    """The score of each continuation of a prompt.

    Raises:
        RequestError: the prompt or a continuation is empty, they are too long together, or the
            scores are not finite.
    """
    for token_ids in continuations:
        _check(prompt_ids, token_ids, max_length)
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    jobs = [
        Job(None, [*prompt_ids, *token_ids], params, scored_from=len(prompt_ids))
        for token_ids in continuations
    ]
    # the first leaves the prompt's full pages to the others, who else would all compute them
    ahead = 1 if len(prompt_ids) > PAGE_SIZE else 0
    outputs = answers.run(jobs[:ahead]) + answers.run(jobs[ahead:])
    return [
        Score(list(token_ids), _logprobs(output, len(prompt_ids)))
        for token_ids, output in zip(continuations, outputs, strict=True)
    ]


def _check(prompt_ids: Sequence[int], token_ids: Sequence[int], max_length: int) -> None:
    if not prompt_ids or not token_ids:
        raise RequestError("prompt and continuation need a token each", param="prompt")
    num_tokens = len(prompt_ids) + len(token_ids)
    if num_tokens >= max_length:
        raise RequestError(
            f"prompt and continuation have {num_tokens} tokens, the model's limit is {max_length}, "
            "of which one is for an answer",
            param="continuations",
        )


def _logprobs(output: RequestOutput, start: int) -> list[float]:
    if output.prompt_logprobs is None:
        error = output.outputs[0].error or "the request was aborted"
        raise RequestError(error, param="continuations")
    ids, entries = output.prompt_token_ids[start:], output.prompt_logprobs[start:]
    return [
        entry[token_id].logprob
        for token_id, entry in zip(ids, entries, strict=True)
        if entry is not None
    ]
