"""What one step does: which requests get how many tokens, and what the device answers."""

from dataclasses import dataclass

from runtime.request import Request


@dataclass(frozen=True)
class Limits:
    """What one step can hold.

    Attributes:
        num_slots: requests at once.
        num_blocks: query blocks of one step, 0 < num_blocks.
        block_q: tokens of a query block.
        page_size: tokens of a page.
        pages_per_request: width of the page table.
    """

    num_slots: int
    num_blocks: int
    block_q: int
    page_size: int
    pages_per_request: int


@dataclass(frozen=True)
class Scheduled:
    """A request's part of a step: `num_tokens` tokens from `start` on.

    `samples`: whether its next token is chosen, because nothing is missing afterwards.
    `admitted`: whether it took its slot in this step.
    """

    request: Request
    slot: int
    start: int
    num_tokens: int
    samples: bool
    admitted: bool


@dataclass(frozen=True)
class StepPlan:
    """One step: requests of one token first, then those of many, and the pages they were given.

    `page_updates`: (slot, index in its row of the page table, page).
    """

    rows: tuple[Scheduled, ...]
    chunks: tuple[Scheduled, ...]
    page_updates: tuple[tuple[int, int, int], ...]

    @property
    def scheduled(self) -> tuple[Scheduled, ...]:
        """In the order of the token axis."""
        return self.rows + self.chunks

    @property
    def samples(self) -> list[Scheduled]:
        """Those whose next token is chosen, in the order of the results."""
        return [item for item in self.scheduled if item.samples]


@dataclass(frozen=True)
class SampledToken:
    """What the device chose for one request."""

    token_id: int
    finite: bool
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Draft:
    """A plan in the making: what is taken of the step's room."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self.rows: list[Scheduled] = []
        self.chunks: list[Scheduled] = []
        self.page_updates: list[tuple[int, int, int]] = []
        self._chunk_blocks = 0

    def room(self, num_missing: int, *, rows_ahead: int) -> int:
        """Tokens that a request may get, if `rows_ahead` more rows are still to come."""
        rows = len(self.rows) + rows_ahead + (num_missing == 1)
        row_blocks = -(-rows // self._limits.block_q)
        if num_missing == 1:
            return int(row_blocks + self._chunk_blocks <= self._limits.num_blocks)
        left = self._limits.num_blocks - row_blocks - self._chunk_blocks
        return min(num_missing, max(0, left) * self._limits.block_q)

    def add(self, item: Scheduled) -> None:
        if item.num_tokens == 1:
            self.rows.append(item)
        else:
            self.chunks.append(item)
            self._chunk_blocks += -(-item.num_tokens // self._limits.block_q)
