"""A request in the scheduler's hands: what was asked for, and how far it is."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from runtime.buckets import SampleMode
from runtime.experiments.probe import Probe
from runtime.guide import Guide
from runtime.kv_snapshot import KVSnapshot
from runtime.request import PromptLogprob, SamplingParams
from runtime.sampling import NUM_CANDIDATES

# what of the prompt's hidden states a request wants instead of an answer
type Pooling = Literal["last", "mean"]


@dataclass(eq=False)
class Request:
    """Only the scheduler changes it, and what it calls.

    `num_computed` catches up with `num_tokens`; there is no phase. Tokens that the device has been
    asked for and the host has not read yet are `num_in_flight`: they count.

    Attributes:
        num_tokens: tokens that exist, read or in flight.
        num_reported: positions of the prompt whose scores or hidden states have been asked for, or
            are not wanted.
        prompt_scores: those that were read, of the last tokens of the prompt.
        pooled: sum of the hidden states that were read, float64 [D].
        probe: what an experiment reads and changes in it.
        origin: a context to continue from.
        kept: where it is a list, it receives the request's own context at the end.
        arrival: its number in the scheduler's order of arrival.
    """

    request_id: int
    prompt_ids: list[int]
    params: SamplingParams
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    seed: int = 0
    choice: int = 0
    cache_salt: str = ""
    priority: int = 0
    pooling: Pooling | None = None
    guide: Guide | None = None
    probe: Probe | None = None
    origin: KVSnapshot | None = None
    kept: list[KVSnapshot] | None = None
    output_ids: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    page_hashes: list[bytes] = field(default_factory=list)
    prompt_scores: list[PromptLogprob] = field(default_factory=list)
    pooled: np.ndarray | None = None
    num_tokens: int = field(init=False)
    num_registered: int = 0
    slot: int | None = None
    num_computed: int = 0
    num_in_flight: int = 0
    num_reported: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    arrival: int = 0
    finish_reason: str | None = None

    def __post_init__(self) -> None:
        self.num_tokens = len(self.prompt_ids) + len(self.output_ids) + self.num_in_flight

    @property
    def num_known(self) -> int:
        """Tokens whose ids the host has."""
        return self.num_tokens - self.num_in_flight

    @property
    def num_missing(self) -> int:
        """Tokens whose keys and values are not computed yet."""
        return self.num_tokens - self.num_computed

    @cached_property
    def max_total_tokens(self) -> int:
        """Length at which the request ends at the latest."""
        return len(self.prompt_ids) + self.max_tokens

    @property
    def token_ids(self) -> list[int]:
        """Prompt and answer so far."""
        return self.prompt_ids + self.output_ids

    def token_id(self, position: int) -> int:
        """The token at a position, which is known."""
        num_prompt = len(self.prompt_ids)
        if position < num_prompt:
            return self.prompt_ids[position]
        return self.output_ids[position - num_prompt]

    @property
    def wants(self) -> bool:
        """Whether there is something to compute; the last token of all is never computed."""
        return self.num_computed < self.num_tokens < self.max_total_tokens

    @property
    def rank(self) -> tuple[int, int]:
        """Who has less comes first."""
        return self.priority, self.arrival

    @cached_property
    def last_reported(self) -> int:
        """Positions of the prompt before this one are all reported: their scores, or states.

        A hidden state scores the token after it: the last of the prompt scores the answer.
        """
        if self.pooling == "mean":
            return len(self.prompt_ids)
        return 0 if self.params.prompt_logprobs is None else len(self.prompt_ids) - 1

    @cached_property
    def needs_extras(self) -> bool:
        """Whether the device must know penalties, biases or the tokens that end the answer."""
        params = self.params
        return params.has_penalties or bool(params.logit_bias) or params.min_tokens > 0

    @cached_property
    def sample_mode(self) -> SampleMode:
        """The least that can choose the request's tokens."""
        params = self.params
        if params.logprobs is not None or self.guide is not None or self.needs_extras:
            return SampleMode.FULL
        if params.temperature == 0:
            return SampleMode.GREEDY
        if 1 <= params.top_k <= NUM_CANDIDATES:
            return SampleMode.CANDIDATES
        if params.top_k > NUM_CANDIDATES:
            return SampleMode.FULL
        unlimited = params.top_p == 1 and params.min_p == 0
        return SampleMode.UNLIMITED if unlimited else SampleMode.LIMITED
