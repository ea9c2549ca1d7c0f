"""Changes to the inner values of a run, as data: added, replaced, scaled, patched from a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from models.sites import PATTERN, expand_sites
from runtime.errors import RequestError
from runtime.experiments.positions import Positions, listed_places, places

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
        RequestError: what is given is no intervention, a site does not exist, a vector does not
            fit or is not of real numbers, a run lacks what is patched in.
    """
    edits: list[Edit] = []
    for intervention in interventions:
        if not isinstance(intervention, INTERVENTIONS):
            raise RequestError(
                f"an intervention is an Add, Replace, Scale or Patch, got {intervention!r}",
                param="interventions",
            )
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
    at = places(item.positions, num_prompt)
    one, zero = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    match item:
        case Add():
            vector = _numbers(item.scale, name) * _fit(item.vector, name, shape)
            return Edit(name, at, one, vector)
        case Scale():
            return Edit(name, at, _fit(item.factor, name, shape), zero)
        case Replace():
            return Edit(name, at, zero, _fit(item.value, name, shape))


def _patch(item: Patch, name: str, shape: tuple[int, ...], num_prompt: int) -> Edit:
    run = getattr(item.from_run, "captured", item.from_run)
    if run is None:
        run = {}
    if not isinstance(run, Mapping):
        raise RequestError(
            f"Patch takes a result or its `captured`, got {type(run).__name__}",
            param="interventions",
        )
    if name not in run:
        had = ", ".join(run) or "nothing"
        raise RequestError(
            f"the run to patch from has not captured {name}: it has {had}", param="interventions"
        )
    source = np.asarray(run[name])
    if source.ndim != 1 + len(shape):
        raise RequestError(
            f"the run to patch from must have {name} as tokens x {shape}, it has {source.shape}",
            param="interventions",
        )
    at = listed_places(item.positions, num_prompt, len(source))
    taken = at
    if item.from_positions is not None:
        taken = listed_places(item.from_positions, len(source), len(source))
    if len(taken) != len(at):
        raise RequestError(
            f"{len(taken)} positions of the run for {len(at)} positions to patch",
            param="interventions",
        )
    if len(taken) and not 0 <= taken.min() <= taken.max() < len(source):
        raise RequestError(
            f"position {taken.max()} is not in the run to patch from, which has {len(source)}",
            param="interventions",
        )
    values = np.stack([_fit(source[i], name, shape) for i in taken] or [np.zeros(shape)])
    order = np.argsort(at)
    return Edit(name, at[order], np.zeros(shape, np.float32), values[order])


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.array(None)
    kinds = (jnp.bool_, jnp.integer, jnp.floating)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise RequestError(
            f"{name} can be changed with real numbers, got {values!r}", param="interventions"
        )
    if np.isnan(array.astype(np.float32)).any():
        raise RequestError(
            f"{name} cannot be changed with NaN, which a run has where it continued a snapshot",
            param="interventions",
        )
    return array.astype(np.float32)


def _fit(values: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = _numbers(values, name)
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
