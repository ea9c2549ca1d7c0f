"""The results of the Python face, under vLLM's names."""

from dataclasses import dataclass, field

import numpy as np

from runtime.kv_snapshot import KVSnapshot


@dataclass(frozen=True)
class Logprob:
    """A token's log-probability; `rank` 1 is the likeliest, None where it is not known.

    `decoded_token` is the text of the token by itself; part of a character is U+FFFD.
    """

    logprob: float
    rank: int | None
    decoded_token: str


@dataclass(frozen=True)
class CompletionOutput:
    """One answer.

    Attributes:
        index: its number among the `n` answers to one prompt.
        logprobs: for each token, the chosen one and the best alternatives by id; None unless
            asked.
        cumulative_logprob: the sum over the chosen tokens; None unless asked.
        finish_reason: "stop", "length", "abort" or "error"; None while it goes on.
        stop_reason: the stop string or the stop token id that ended it; None for the model's end.
        captured: site -> its values [tokens, …], of the prompt and of the answer without its last
            token, which is never computed; None unless asked. NaN where a snapshot was continued.
        snapshot: the context of prompt and answer, kept in the KV pool; None unless asked.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None
    stop_reason: str | int | None = None
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    error: str | None = None
    captured: dict[str, np.ndarray] | None = None
    snapshot: KVSnapshot | None = None


@dataclass(frozen=True)
class RequestOutput:
    """A prompt and its answers; `prompt` is None where token ids were given.

    `prompt_logprobs`, if asked for: for each token of the prompt itself and the best alternatives
    by id, as `CompletionOutput.logprobs`; None for the first.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    num_cached_tokens: int = 0
    finished: bool = True
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None

    @property
    def captured(self) -> dict[str, np.ndarray] | None:
        """What was captured of the first answer."""
        return self.outputs[0].captured


@dataclass(frozen=True)
class EmbeddingOutput:
    """A prompt's embedding; `prompt` is None where token ids were given."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    embedding: list[float]
    num_cached_tokens: int = 0
    finished: bool = True
