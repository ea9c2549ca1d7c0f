"""Places in a context, as a caller names them and as numbers."""

from collections.abc import Sequence

import numpy as np

from runtime.errors import RequestError

# Places in a context. None: all, prompt and answer; a slice or numbers, where negative ones count
# back from the end of the prompt: -1 is its last token.
type Positions = int | Sequence[int] | slice | None


def places(positions: Positions, num_prompt: int) -> slice | np.ndarray:
    """A slice of numbers from 0 on, whose stop may be None, or the places in ascending order.

    Raises:
        RequestError: they are no whole numbers, reach before the start or step back.
    """
    if positions is None:
        return slice(0, None, 1)
    if not isinstance(positions, slice):
        return np.unique(listed_places(positions, num_prompt, 0))
    bounds = (positions.start, positions.stop, positions.step)
    if not all(bound is None or isinstance(bound, int | np.integer) for bound in bounds):
        raise _no_positions(positions)
    # as in Python: a slice that reaches before the start begins there
    start, stop = (
        None if bound is None else max(0, bound + num_prompt) if bound < 0 else bound
        for bound in bounds[:2]
    )
    step = 1 if positions.step is None else positions.step
    if step < 1:
        raise RequestError(f"positions step forward, got step {step}", param="interventions")
    return slice(start or 0, stop, step)


def listed_places(positions: Positions, num_prompt: int, length: int) -> np.ndarray:
    """The places one by one, in the caller's order; open ends reach to `length`.

    Raises:
        RequestError: as `places`.
    """
    if positions is None:
        return np.arange(length)
    if isinstance(positions, slice):
        bounds = places(positions, num_prompt)
        assert isinstance(bounds, slice)
        return np.arange(*bounds.indices(length))
    try:
        listed = np.atleast_1d(np.asarray(positions))
    except ValueError:  # lists of different lengths
        raise _no_positions(positions) from None
    if listed.ndim != 1 or (listed.size and not np.issubdtype(listed.dtype, np.integer)):
        raise _no_positions(positions)
    listed = listed.astype(np.int64)
    listed = np.where(listed < 0, listed + num_prompt, listed)
    if (listed < 0).any():
        raise RequestError(
            f"positions {positions} reach before the start of {num_prompt} tokens",
            param="interventions",
        )
    return listed


def _no_positions(positions: object) -> RequestError:
    return RequestError(
        f"positions must be whole numbers, a slice or None, got {positions!r}",
        param="interventions",
    )
