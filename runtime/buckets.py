"""The few shapes that steps are padded to, so that nothing compiles while serving."""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

from models.kv_cache import BLOCK_Q


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


@dataclass(frozen=True)
class SampleBucket:
    """One shape of the sample program; `greedy` for rows that need the best token and no more.

    The host chooses: a conditional on the device would have it wait for the predicate, and so for
    the step.
    """

    num_rows: int
    greedy: bool


@dataclass(frozen=True)
class Buckets:
    """All shapes: powers of two, from the smallest that runs well to the largest that can occur.

    Attributes:
        num_slots: requests at once.
        max_tokens: tokens of one step.
        min_rows: a single row is slow on CPUs and fast on GPUs.
    """

    num_slots: int
    max_tokens: int
    min_rows: int

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
        return _doubling(self.min_rows, self.num_slots)

    @cached_property
    def blocks(self) -> list[int]:
        """Numbers of query blocks."""
        return _doubling(1, self.max_tokens // BLOCK_Q)

    @property
    def all(self) -> list[Bucket]:
        """Every forward program."""
        return [Bucket(rows, 0) for rows in self.rows] + [
            Bucket(blocks * BLOCK_Q, blocks) for blocks in self.blocks
        ]

    @property
    def samples(self) -> list[SampleBucket]:
        """Every sample program."""
        return [SampleBucket(rows, greedy) for rows in self.rows for greedy in (True, False)]

    def for_step(self, num_rows: int, num_chunk_blocks: int) -> Bucket:
        """The smallest shape that holds a step."""
        if not num_chunk_blocks:
            return Bucket(_at_least(self.rows, num_rows), 0)
        blocks = _at_least(self.blocks, -(-num_rows // BLOCK_Q) + num_chunk_blocks)
        return Bucket(blocks * BLOCK_Q, blocks)

    def for_samples(self, num_samples: int) -> int:
        """The smallest number of rows that holds so many samples."""
        return _at_least(self.rows, num_samples)


def _doubling(first: int, last: int) -> list[int]:
    sizes = []
    size = first
    while size < last:
        sizes.append(size)
        size *= 2
    return [*sizes, last]


def _at_least(sizes: list[int], wanted: int) -> int:
    return sizes[bisect_left(sizes, wanted)]
