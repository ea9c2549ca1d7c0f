"""What one step does: which requests get how many tokens, and what the device answers."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from runtime.buckets import REPORTED_ROWS
from runtime.engine_request import Request

# (slot, index in its row of the page table, page)
type PageUpdate = tuple[int, int, int]
# (source, target), done before anything else
type PageCopy = tuple[int, int]

# Keeps a GPU nearly as busy as thousands do: `python -m benchmarks.step_simulation`.
MIXED_TOKENS = 512

_NOTHING = range(0)


@dataclass(frozen=True)
class Limits:
    """What one step can hold.

    Attributes:
        num_slots: requests at once.
        num_blocks: query blocks of one step, 0 < num_blocks.
        block_q: tokens of a query block.
        page_size: tokens of a page.
        pages_per_request: width of the page table.
        mixed_tokens: of a step in which answers are written, and few wait for their first token.
    """

    num_slots: int
    num_blocks: int
    block_q: int
    page_size: int
    pages_per_request: int
    mixed_tokens: int = MIXED_TOKENS

    @property
    def mixed_blocks(self) -> int:
        """Query blocks of `mixed_tokens`; however many rows there are, four are for prompts."""
        row_blocks = -(-self.num_slots // self.block_q)
        return min(self.num_blocks, max(self.mixed_tokens // self.block_q, row_blocks + 4))

    def blocks_beside(self, num_writing: int, num_waiting: int) -> int:
        """Query blocks of a step beside so many answers that are written.

        In a long step everybody waits whose answer is being written. So prompts are spread over
        short ones, unless most of those that have a slot, or could have one, wait for their first
        token.
        """
        return self.num_blocks if num_waiting > num_writing else self.mixed_blocks


class Scheduled(NamedTuple):
    """A request's part of a step: `num_tokens` tokens from `start` on.

    A tuple since one is made for every request in every step.

    Attributes:
        samples: its next token is chosen, because nothing is missing afterwards; or the request
            ends here with its embedding.
        admitted: it took its slot in this step.
        reported: positions of the prompt whose scores or hidden states are wanted.
    """

    request: Request
    slot: int
    start: int
    num_tokens: int
    samples: bool
    admitted: bool
    reported: range = _NOTHING


@dataclass(frozen=True)
class StepPlan:
    """One step: requests of one token first, then those of many, and the pages they were given."""

    rows: tuple[Scheduled, ...]
    chunks: tuple[Scheduled, ...]
    page_updates: tuple[PageUpdate, ...]
    page_copies: tuple[PageCopy, ...] = ()

    @cached_property
    def scheduled(self) -> tuple[Scheduled, ...]:
        """In the order of the token axis."""
        return self.rows + self.chunks

    @cached_property
    def samples(self) -> list[Scheduled]:
        """Those whose next token is chosen, in the order of the results."""
        return [item for item in self.scheduled if item.samples and item.request.pooling is None]

    @cached_property
    def scored(self) -> list[Scheduled]:
        """Those whose prompt is scored, in the order of the results, which follow the samples'."""
        return [item for item in self._reporting if item.request.pooling is None]

    @cached_property
    def pooled(self) -> list[Scheduled]:
        """Those whose hidden states are wanted."""
        return [item for item in self._reporting if item.request.pooling is not None]

    @cached_property
    def admitted(self) -> list[Scheduled]:
        """Those that took their slots in this step."""
        return [item for item in self.scheduled if item.admitted]

    @cached_property
    def _reporting(self) -> list[Scheduled]:
        return [item for item in self.scheduled if item.reported]

    @property
    def num_prompt_tokens(self) -> int:
        """How many tokens of prompts are computed."""
        ends = ((item, len(item.request.prompt_ids)) for item in self.scheduled)
        return sum(
            min(item.start + item.num_tokens, end) - item.start
            for item, end in ends
            if item.start < end
        )

    @cached_property
    def is_guided(self) -> bool:
        """Whether a mask must be made, for which all tokens before must be known."""
        return any(item.request.guide is not None for item in self.samples)


class SampledToken(NamedTuple):
    """What the device chose for one request, or said of a given token."""

    token_id: int
    finite: bool
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Draft:
    """A plan in the making: what is taken of the step's room."""

    def __init__(self, limits: Limits, num_blocks: int):
        self._limits = limits
        self._num_blocks = num_blocks
        self.rows: list[Scheduled] = []
        self.chunks: list[Scheduled] = []
        self.page_updates: list[PageUpdate] = []
        self.page_copies: list[PageCopy] = []
        self._chunk_blocks = 0
        self._reported_left = REPORTED_ROWS

    def room(self, request: Request, start: int, *, rows_ahead: int) -> int:
        """Tokens that a request may get from `start` on, if `rows_ahead` more rows are to come."""
        num_missing = request.num_tokens - start
        rows = len(self.rows) + rows_ahead + (num_missing == 1)
        row_blocks = -(-rows // self._limits.block_q)
        if num_missing == 1:
            blocks = row_blocks + self._chunk_blocks
            room = int(blocks <= self._num_blocks)
        else:
            left = self._num_blocks - row_blocks - self._chunk_blocks
            room = min(num_missing, max(0, left) * self._limits.block_q)
        return self._reportable(request, start, room)

    def block_room(self, request: Request, start: int) -> int:
        """The same where prompts go into blocks, be it one token, and there are no rows."""
        left = self._num_blocks - self._chunk_blocks
        room = min(len(request.prompt_ids) - start, left * self._limits.block_q)
        return self._reportable(request, start, room)

    def _reportable(self, request: Request, start: int, room: int) -> int:
        end = max(start, request.num_reported) + self._reported_left
        return room if end >= request.last_reported else min(room, end - start)

    def add(self, item: Scheduled, *, as_block: bool = False) -> None:
        if item.request.last_reported:  # else its only row is the one that each slot has
            self._reported_left -= len(item.reported)
        if item.num_tokens == 1 and not as_block:
            self.rows.append(item)
        else:
            self.chunks.append(item)
            self._chunk_blocks += -(-item.num_tokens // self._limits.block_q)


def reported(request: Request, start: int, num_tokens: int) -> range:
    """Positions whose scores or hidden states a request wants of a step."""
    end = start + num_tokens
    if request.pooling == "last":
        return range(end - 1, end) if end == request.num_tokens else _NOTHING
    if start >= request.last_reported:
        return _NOTHING
    return range(max(start, request.num_reported), min(end, request.last_reported))
