"""What a caller asks for, and what comes back token by token."""

import math
from dataclasses import dataclass, field, fields

import msgspec

from runtime.errors import PromptTooLong, RequestError
from runtime.structured_outputs import StructuredOutputs

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_LENGTH = 1024
MAX_STOP_TOKEN_IDS = 32
MAX_LOGIT_BIAS = 300
MAX_SEED = 2**63 - 1

# name: (lowest, highest); both ends allowed
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "top_k": (-1, 2**31 - 1),
    "min_tokens": (0, 2**31 - 1),
    "n": (1, 128),
}


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when to stop; vLLM's names, checked when made.

    Attributes:
        n: answers to one prompt, each with its own random choices.
        temperature: 0 is greedy.
        top_k: 0 or -1 keeps every token.
        max_tokens: None means as many as the context holds.
        min_tokens: before so many, no end-of-sequence or stop token can be chosen.
        logprobs: how many alternatives to report (0: the chosen token alone; None: nothing).
        prompt_logprobs: the same for the tokens of the prompt.
        structured_outputs: the form that the answer must have; it says when the answer may end.
        seed: None draws one; results then differ from call to call.

    Raises:
        RequestError: a value is out of its range; `param` names it.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    max_tokens: int | None = 16
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structured_outputs: StructuredOutputs | None = None

    def __post_init__(self) -> None:
        # a bare string and a list are what callers write; a tuple is what is kept
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        object.__setattr__(self, "logit_bias", dict(self.logit_bias or {}))
        self._check_numbers()
        self._check_lists()

    def _check_numbers(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise RequestError(f"{item.name} must be finite, got {value}", param=item.name)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise RequestError(f"{name} must lie in [{low}, {high}], got {value}", param=name)
        for name in ("top_p", "repetition_penalty"):
            value, high = getattr(self, name), 1.0 if name == "top_p" else 100.0
            if not 0.0 < value <= high:
                raise RequestError(f"{name} must lie in (0, {high:g}], got {value}", param=name)
        if self.max_tokens is not None and not 1 <= self.max_tokens <= 2**31 - 1:
            raise RequestError(
                f"max_tokens must lie in [1, 2147483647], got {self.max_tokens}",
                param="max_tokens",
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens ({self.min_tokens}) exceeds max_tokens ({self.max_tokens})",
                param="min_tokens",
            )
        if self.seed is not None and not -MAX_SEED - 1 <= self.seed <= MAX_SEED:
            raise RequestError(f"seed must fit 64 bits, got {self.seed}", param="seed")
        for name in ("logprobs", "prompt_logprobs"):
            count = getattr(self, name)
            if count is not None and not 0 <= count <= MAX_LOGPROBS:
                raise RequestError(
                    f"{name} must lie in [0, {MAX_LOGPROBS}], got {count}", param=name
                )
        if self.min_tokens and self.structured_outputs is not None:
            raise RequestError(
                "min_tokens cannot be combined with structured_outputs, which say when the answer "
                "may end",
                param="min_tokens",
            )

    def _check_lists(self) -> None:
        if len(self.stop) > MAX_STOPS:
            raise RequestError(
                f"at most {MAX_STOPS} stop strings, got {len(self.stop)}", param="stop"
            )
        if any(not isinstance(s, str) or not 0 < len(s) <= MAX_STOP_LENGTH for s in self.stop):
            raise RequestError(
                f"each stop string needs 1 to {MAX_STOP_LENGTH} characters", param="stop"
            )
        if len(self.stop_token_ids) > MAX_STOP_TOKEN_IDS:
            raise RequestError(
                f"at most {MAX_STOP_TOKEN_IDS} stop_token_ids, got {len(self.stop_token_ids)}",
                param="stop_token_ids",
            )
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise RequestError(
                f"at most {MAX_LOGIT_BIAS} entries in logit_bias, got {len(self.logit_bias)}",
                param="logit_bias",
            )
        for token_id, bias in self.logit_bias.items():
            if not -100.0 <= bias <= 100.0:  # also refuses NaN
                raise RequestError(
                    f"logit_bias of token {token_id} must lie in [-100, 100], got {bias}",
                    param="logit_bias",
                )

    @property
    def has_penalties(self) -> bool:
        """Whether the token counts of the request matter."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


# (token_id, logprob, best alternatives as (token_id, logprob))
type PromptLogprob = tuple[int, float, tuple[tuple[int, float], ...]]


class TokenOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    """One token of one request, or its end.

    A struct since one is made and sent for every token.

    Attributes:
        request_id: whose token it is.
        token_id: None when the request ends without one (abort, error, an embedding).
        logprob: of the chosen token, from the unscaled logits; None unless asked for.
        top_logprobs: the best alternatives, best first, as (token_id, logprob).
        finish_reason: None while it goes on, else "stop", "length", "abort" or "error".
        error: what went wrong, in words for the caller.
        num_cached_tokens: prompt tokens found in the prefix cache.
        prompt_logprobs: with the first token, where asked for: one entry for each token of the
            prompt, None for the first and for those of which no score is wanted.
        embedding: float32 [D] as bytes, where the request asked for one.
    """

    request_id: int
    token_id: int | None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish_reason: str | None = None
    error: str | None = None
    num_cached_tokens: int = 0
    prompt_logprobs: tuple[PromptLogprob | None, ...] | None = None
    embedding: bytes | None = None


def answer_room(
    num_prompt: int, max_tokens: int | None, *, max_model_len: int, kv_tokens: int
) -> int:
    """Tokens the answer may have, refusing what can never fit.

    Args:
        num_prompt: length of the prompt in tokens.
        max_tokens: what the caller asked for; None for all that fits.
        max_model_len: longest prompt and answer together, in tokens.
        kv_tokens: tokens that the whole KV pool holds.

    Raises:
        PromptTooLong: with the numbers.
        RequestError: the prompt is empty.
    """
    if num_prompt == 0:
        raise RequestError("the prompt is empty: it has no tokens", param="prompt")
    limit = min(max_model_len, kv_tokens)
    what = (
        f"the model's limit is {max_model_len} tokens"
        if max_model_len <= kv_tokens
        else f"the KV pool holds {kv_tokens} tokens"
    )
    if num_prompt >= limit:
        raise PromptTooLong(
            f"the prompt has {num_prompt} tokens and {what}, of which one is for the answer"
        )
    if max_tokens is None:
        return limit - num_prompt
    if num_prompt + max_tokens > limit:
        raise PromptTooLong(
            f"the prompt has {num_prompt} tokens and max_tokens is {max_tokens}, "
            f"{num_prompt + max_tokens} together; {what}",
        )
    return max_tokens
