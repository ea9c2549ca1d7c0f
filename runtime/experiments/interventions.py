"""Changes to the inner values of a run, as data: added, replaced, scaled, patched from a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.sites import PATTERN, expand_sites
from runtime.errors import RequestError

# Places in a context. None: all, prompt and answer; a slice or numbers, where negative ones count
# back from the end of the prompt: -1 is its last token.
type Positions = int | Sequence[int] | slice | None
type Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Add:
    """Adds `scale * vector` to the value at a site; `vector` broadcasts to the site's shape."""

    site: str
    vector: Any
    positions: Positions = None
    scale: float = 1.0


@dataclass(frozen=True)
class Replace:
    """Puts `value` in place of what is at a site; it broadcasts to the site's shape."""

    site: str
    value: Any
    positions: Positions = None


@dataclass(frozen=True)
class Scale:
    """Multiplies the value at a site by `factor`, which broadcasts: 0 takes it out."""

    site: str
    factor: Any
    positions: Positions = None


@dataclass(frozen=True)
class Patch:
    """Puts the value that another run had at the same site and position in place of this one's.

    Attributes:
        from_run: its output, or the `captured` of it; it must have captured the site.
        from_positions: of that run, as many as `positions`; None for the same ones.
    """

    site: str
    from_run: Any
    positions: Positions = None
    from_positions: Positions = None


type Intervention = Add | Replace | Scale | Patch
INTERVENTIONS = (Add, Replace, Scale, Patch)


@dataclass(frozen=True)
class Edit:
    """One site's change: value * factor + shift, at some places of the context.

    Attributes:
        name: the site.
        places: a slice, or the places in ascending order.
        factor: of the site's shape.
        shift: of the site's shape, or with an axis of the places before it.
    """

    name: str
    places: slice | np.ndarray
    factor: np.ndarray
    shift: np.ndarray

    def apply(self, positions: np.ndarray, factor: np.ndarray, shift: np.ndarray) -> None:
        """Composes itself onto what is done to a request's tokens at `positions`, [n, …] each."""
        if isinstance(self.places, slice):
            start, step = self.places.start, self.places.step
            at = (positions >= start) & ((positions - start) % step == 0)
            if self.places.stop is not None:
                at &= positions < self.places.stop
            own_shift = self.shift
        else:
            at = np.isin(positions, self.places)
            own_shift = self.shift
            if self.shift.ndim > self.factor.ndim:
                own_shift = self.shift[np.searchsorted(self.places, positions[at])]
        shift[at] = shift[at] * self.factor + own_shift
        factor[at] = factor[at] * self.factor


def make_edits(
    interventions: Sequence[Intervention], shapes: Shapes, *, num_prompt: int
) -> tuple[Edit, ...]:
    """The interventions on one request, checked, one edit for each site that they mean.

    Args:
        shapes: every site's (`models.sites.site_shapes`).
        num_prompt: tokens of the request's prompt.

    Raises:
        RequestError: a site does not exist, a vector does not fit, a run lacks what is patched in.
    """
    edits: list[Edit] = []
    for intervention in interventions:
        for name in _sites(intervention.site, shapes):
            edits.append(_edit(intervention, name, shapes[name], num_prompt))
    return tuple(edits)


def _sites(pattern: str, shapes: Shapes) -> list[str]:
    try:
        return expand_sites([pattern], shapes)
    except ValueError as error:
        raise RequestError(str(error), param="interventions") from None


def _edit(item: Intervention, name: str, shape: tuple[int, ...], num_prompt: int) -> Edit:
    if isinstance(item, Patch):
        return _patch(item, name, shape, num_prompt)
    places = _places(item.positions, num_prompt)
    one, zero = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    match item:
        case Add():
            return Edit(name, places, one, item.scale * _fit(item.vector, name, shape))
        case Scale():
            return Edit(name, places, _fit(item.factor, name, shape), zero)
        case Replace():
            return Edit(name, places, zero, _fit(item.value, name, shape))


def _patch(item: Patch, name: str, shape: tuple[int, ...], num_prompt: int) -> Edit:
    run = getattr(item.from_run, "captured", item.from_run) or {}
    if name not in run:
        had = ", ".join(run) or "nothing"
        raise RequestError(
            f"the run to patch from has not captured {name}: it has {had}", param="interventions"
        )
    source = np.asarray(run[name], np.float32)
    places = _listed(item.positions, num_prompt, len(source))
    taken = places
    if item.from_positions is not None:
        taken = _listed(item.from_positions, len(source), len(source))
    if len(taken) != len(places):
        raise RequestError(
            f"{len(taken)} positions of the run for {len(places)} positions to patch",
            param="interventions",
        )
    if len(taken) and not 0 <= taken.min() <= taken.max() < len(source):
        raise RequestError(
            f"position {taken.max()} is not in the run to patch from, which has {len(source)}",
            param="interventions",
        )
    values = np.stack([_fit(source[i], name, shape) for i in taken] or [np.zeros(shape)])
    order = np.argsort(places)
    return Edit(name, places[order], np.zeros(shape, np.float32), values[order])


def _fit(values: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(values, np.float32)
    if name.endswith(PATTERN) and array.ndim and 1 < array.shape[-1] < shape[-1]:
        # a pattern is as wide as the longest context; runs know theirs
        missing = shape[-1] - array.shape[-1]
        array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise RequestError(
            f"{name} has shape {shape}, which {array.shape} does not broadcast to",
            param="interventions",
        ) from None


def _places(positions: Positions, num_prompt: int) -> slice | np.ndarray:
    if positions is None:
        return slice(0, None, 1)
    if not isinstance(positions, slice):
        return np.unique(_listed(positions, num_prompt, 0))
    start, stop = (
        None if bound is None else bound + num_prompt if bound < 0 else bound
        for bound in (positions.start, positions.stop)
    )
    step = 1 if positions.step is None else positions.step
    if step < 1:
        raise RequestError(f"positions step forward, got step {step}", param="interventions")
    return slice(start or 0, stop, step)


def _listed(positions: Positions, num_prompt: int, length: int) -> np.ndarray:
    """The places one by one; open ends reach to `length`."""
    if positions is None:
        return np.arange(length)
    if isinstance(positions, slice):
        bounds = _places(positions, num_prompt)
        assert isinstance(bounds, slice)
        return np.arange(*bounds.indices(length))
    listed = np.atleast_1d(np.asarray(positions, np.int64))
    listed = np.where(listed < 0, listed + num_prompt, listed)
    if listed.ndim != 1 or (listed < 0).any():
        raise RequestError(
            f"positions {positions} reach before the start of a prompt of {num_prompt} tokens",
            param="interventions",
        )
    return listed
