"""The few shapes that steps are padded to, so that nothing compiles while serving."""

from bisect import bisect_left
from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from models.kv_cache import BLOCK_Q

# Tokens of prompts that one step reports on (scores, hidden states) besides one row for each slot.
REPORTED_ROWS = BLOCK_Q


@dataclass(frozen=True, order=True)
class Bucket:
    """One shape of the forward program.

    `num_blocks` 0: a step of `num_tokens` rows. Otherwise the token axis has so many query blocks,
    of which the first may hold rows (models/kv_cache.py, ModelInput).
    """

    num_tokens: int
    num_blocks: int

    @property
    def name(self) -> str:
        """As it appears in logs, metrics and profiles."""
        return f"prefill_{self.num_tokens}" if self.num_blocks else f"decode_{self.num_tokens}"


class SampleMode(IntEnum):
    """What a sample program can do; each does all that those before it do.

    The host chooses: a conditional on the device would have it wait for the predicate, and so for
    the step.
    """

    GREEDY = 0
    CANDIDATES = 1  # draws under 1 <= top_k <= 64: nothing is random but 64 numbers a row
    UNLIMITED = 2  # draws from the whole vocabulary: a random number a token
    LIMITED = 3  # draws under top_p and min_p
    FULL = 4  # any top_k, penalties, biases, masks, log-probabilities, given tokens

    @property
    def label(self) -> str:
        """As it appears in the names of programs."""
        return self.name.lower()


@dataclass(frozen=True)
class SampleBucket:
    """One shape of the sample program."""

    num_rows: int
    mode: SampleMode

    @property
    def name(self) -> str:
        """As it appears in logs and profiles."""
        return f"sample_{self.mode.label}_{self.num_rows}"


@dataclass(frozen=True)
class Buckets:
    """All shapes: powers of two, from the smallest that runs well to the largest that can occur.

    Attributes:
        num_slots: requests at once.
        max_tokens: tokens of one step.
        min_rows: a single row is slow on CPUs and fast on GPUs.
        one_shape: the largest of each kind alone, and one way to sample: sums are then made in the
            same order for every request of every step.
    """

    num_slots: int
    max_tokens: int
    min_rows: int
    one_shape: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens % BLOCK_Q:
            raise ValueError(
                f"max_num_batched_tokens must be a multiple of {BLOCK_Q}, got {self.max_tokens}"
            )
        least = (-(-self.num_slots // BLOCK_Q) + 1) * BLOCK_Q
        if self.max_tokens < least:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_tokens}) must be at least {least} for "
                f"max_num_seqs {self.num_slots}: each step has a token for every running request "
                f"and {BLOCK_Q} for a prompt"
            )
        if self.num_slots < self.min_rows:
            raise ValueError(f"num_slots must be at least {self.min_rows}, got {self.num_slots}")

    @cached_property
    def rows(self) -> list[int]:
        """Numbers of rows: of a step without blocks, and of what is sampled."""
        first = self.num_slots if self.one_shape else self.min_rows
        return _growing(first, self.num_slots, 2)

    @property
    def max_rows(self) -> int:
        """Rows of hidden states that a step gives out."""
        return max_rows(self.num_slots)

    @cached_property
    def blocks(self) -> list[int]:
        """Numbers of query blocks."""
        most = self.max_tokens // BLOCK_Q
        if self.one_shape:
            return [most]
        # prompts cost by the token: from 4 on there are steps between the powers of two
        halfway = [size * 3 // 2 for size in _growing(4, most, 2)]
        return sorted({*_growing(1, most, 2), *(size for size in halfway if size < most)})

    @property
    def all(self) -> list[Bucket]:
        """Every forward program."""
        return [Bucket(rows, 0) for rows in self.rows] + [
            Bucket(blocks * BLOCK_Q, blocks) for blocks in self.blocks
        ]

    @property
    def samples(self) -> list[SampleBucket]:
        """Every sample program."""
        modes = [SampleMode.FULL] if self.one_shape else SampleMode
        return [SampleBucket(rows, mode) for mode in modes for rows in self._sampled_rows(mode)]

    def for_step(
        self, num_rows: int, num_chunk_blocks: int, ready: Container[Bucket] | None = None
    ) -> Bucket:
        """The smallest shape that holds a step, among those that are `ready`; None: all are."""
        if not num_chunk_blocks:
            sizes = self.rows[bisect_left(self.rows, num_rows) :]
            fitting = (Bucket(rows, 0) for rows in sizes)
        else:
            blocks = -(-num_rows // BLOCK_Q) + num_chunk_blocks
            sizes = self.blocks[bisect_left(self.blocks, blocks) :]
            fitting = (Bucket(blocks * BLOCK_Q, blocks) for blocks in sizes)
        return next(bucket for bucket in fitting if ready is None or bucket in ready)

    @property
    def largest(self) -> list[Bucket]:
        """One of each kind: in these every step can be made."""
        return [Bucket(self.rows[-1], 0), Bucket(self.blocks[-1] * BLOCK_Q, self.blocks[-1])]

    def for_samples(self, num_samples: int, mode: SampleMode) -> SampleBucket:
        """The smallest shape that holds so many samples."""
        if self.one_shape:
            mode = SampleMode.FULL
        return SampleBucket(_at_least(self._sampled_rows(mode), num_samples), mode)

    def _sampled_rows(self, mode: SampleMode) -> list[int]:
        if self.one_shape:
            return [self.max_rows]
        if mode is SampleMode.GREEDY:
            return self.rows
        # five modes of eight sizes would be too many programs, and a few rows more cost little
        coarse = _growing(self.min_rows, self.num_slots, 4)
        return [*coarse, self.max_rows] if mode is SampleMode.FULL else coarse


def max_rows(num_slots: int) -> int:
    """Rows of hidden states that a step gives out: one a slot, and those reported on."""
    return num_slots + REPORTED_ROWS


def _growing(first: int, last: int, factor: int) -> list[int]:
    sizes = []
    size = first
    while size < last:
        sizes.append(size)
        size *= factor
    return [*sizes, last]


def _at_least(sizes: list[int], wanted: int) -> int:
    return sizes[bisect_left(sizes, wanted)]
