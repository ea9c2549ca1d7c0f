"""What an experiment asks of one request, and what it has seen of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.experiments.interventions import Edit, Shapes
from runtime.experiments.score_functions import Processing, Row

type Captured = dict[str, np.ndarray]


@dataclass(frozen=True)
class Instrument:
    """Which sites a step's program reads and which it lets change: what is compiled."""

    captured: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()

    def __or__(self, other: "Instrument") -> "Instrument":
        return Instrument(self.captured | other.captured, self.changed | other.changed)


@dataclass(frozen=True)
class Probe:
    """One request's share: the sites that it wants, its changes, its record so far.

    Attributes:
        instrument: of its whole call, so that all steps of the call run the same programs.
        wanted: sites to record, in order.
        edits: applied in their order.
        processing: what changes its scores before a token is chosen.
        record: for each site, the place of the first token and the values [n, …], of each step.
    """

    instrument: Instrument
    wanted: tuple[str, ...]
    edits: tuple[Edit, ...] = ()
    processing: Processing | None = None
    record: dict[str, list[tuple[int, np.ndarray]]] = field(default_factory=dict)

    def keep(self, name: str, start: int, values: np.ndarray) -> None:
        """Records the values of tokens `start` … of the context."""
        if name in self.wanted:
            self.record.setdefault(name, []).append((start, values))

    def captured(self, num_tokens: int) -> Captured:
        """Values [num_tokens, …] at each wanted site; a preempted token's are the last computed.

        NaN for what was not computed, because a snapshot was continued.
        """
        captured = {}
        for name in self.wanted:
            parts = self.record[name]
            width = parts[0][1].shape[1:]
            length = max(start + len(values) for start, values in parts)
            whole = np.full((length, *width), np.nan, np.float32)
            for start, values in parts:
                whole[start : start + len(values)] = values
            captured[name] = whole[:num_tokens]
            if name.endswith("attn.pattern"):
                captured[name] = captured[name][..., :num_tokens]
        return captured


@dataclass(frozen=True)
class ProbedTokens:
    """A request's tokens in a step: `num_tokens` from `row` on of the token axis, at `start`."""

    probe: Probe
    row: int
    start: int
    num_tokens: int


@dataclass(frozen=True)
class ProbedStep:
    """The experiments in one step.

    Attributes:
        instrument: what its program must have.
        tokens: whose values are recorded.
        edits: site -> factor and shift, [T, …] each: every token's change, nothing for most.
        samples: whose scores are changed by functions, and where they are.
    """

    instrument: Instrument
    tokens: tuple[ProbedTokens, ...]
    edits: Mapping[str, tuple[np.ndarray, np.ndarray]]
    samples: tuple[tuple[Processing, Row], ...] = ()

    def keep(self, captured: Mapping[str, np.ndarray]) -> None:
        """Hands each request its rows of the captured values [T, …]."""
        for name, values in captured.items():
            for item in self.tokens:
                own = values[item.row : item.row + item.num_tokens]
                item.probe.keep(name, item.start, own)


def make_probed_step(
    tokens: Sequence[ProbedTokens],
    samples: Sequence[tuple[Processing, Row]],
    shapes: Shapes,
    *,
    num_tokens: int,
) -> ProbedStep | None:
    """The step's edits as arrays; None when no request has a probe.

    Args:
        num_tokens: T, padding included.
    """
    if not tokens:
        return None
    instrument = union(item.probe.instrument for item in tokens)
    edits = {}
    for name in sorted(instrument.changed):
        factor = np.ones((num_tokens, *shapes[name]), np.float32)
        shift = np.zeros_like(factor)
        for item in tokens:
            rows = slice(item.row, item.row + item.num_tokens)
            positions = np.arange(item.start, item.start + item.num_tokens)
            for edit in item.probe.edits:
                if edit.name == name:
                    edit.apply(positions, factor[rows], shift[rows])
        edits[name] = factor, shift
    return ProbedStep(instrument, tuple(tokens), edits, tuple(samples))


def union(instruments: Iterable[Instrument]) -> Instrument:
    """One that does what any of them does."""
    result = Instrument()
    for instrument in instruments:
        result |= instrument
    return result
