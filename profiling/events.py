"""Reads the kernels of a recorded trace: which ran when, and of which operation."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.profiler import ProfileData

# lines that a viewer derives from the others: the same time once more
DERIVED = ("XLA ", "Framework ", "Source", "Steps", "TensorFlow", "Launch Stats")
HOST_PLANE = "/host:CPU"
DEVICE_PREFIX = "/device:GPU:"


@dataclass(frozen=True)
class Event:
    """One kernel, thunk or copy. Empty where the trace does not say; times in nanoseconds.

    `run` tells the executions of a program apart, where the backend numbers them; `details` is
    CUPTI's text about a kernel: `regs:32 grid:8,1,1 occ_pct:50 …`.
    """

    name: str
    op: str
    module: str
    run: str
    line: str
    start: float
    end: float
    details: str = ""

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return (self.end - self.start) * 1e-9


def read_events(directory: Path) -> list[Event]:
    """Events of the newest trace below a folder, on one device, by start.

    On a GPU: kernels and copies on the streams of the first device. On a CPU: the thunks of XLA's
    executor, from their start to their end on whatever thread.

    Raises:
        ValueError: there is no trace, or no device's events are in it.
    """
    files = sorted(directory.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise ValueError(f"no trace (*.xplane.pb) below {directory}")
    with warnings.catch_warnings():
        # jaxlib's iterator type has no __module__
        warnings.simplefilter("ignore", DeprecationWarning)
        planes = {plane.name: plane for plane in ProfileData.from_file(str(files[-1])).planes}
        devices = sorted(name for name in planes if name.startswith(DEVICE_PREFIX))
        if devices:
            events = list(_gpu_events(planes[devices[0]]))
        elif HOST_PLANE in planes:
            events = list(_cpu_events(planes[HOST_PLANE]))
        else:
            events = []
    if not events:
        raise ValueError(
            f"{files[-1]} has no events of a device; its planes are {', '.join(sorted(planes))}"
        )
    return sorted(events, key=lambda event: event.start)


def _gpu_events(plane: Any) -> Iterator[Event]:
    lines = list(plane.lines)
    streams = [line for line in lines if line.name.startswith("Stream")]
    for line in streams or [line for line in lines if not line.name.startswith(DERIVED)]:
        for event in line.events:
            stats = _stats(event)
            if event.duration_ns > 0:
                yield _event(event, stats, line.name, event.start_ns + event.duration_ns)


def _cpu_events(plane: Any) -> Iterator[Event]:
    """A thunk's event holds the id `_p`; the event `end: …` that holds it as `_c` is its end."""
    begun: list[tuple[Any, dict[str, Any], str]] = []
    ends: dict[Any, float] = {}
    for line in plane.lines:
        for event in line.events:
            stats = _stats(event)
            if event.name.startswith("end: "):
                ends[stats.get("_c")] = event.start_ns
            elif "hlo_op" in stats:
                begun.append((event, stats, line.name))
    for event, stats, line_name in begun:
        end = ends.get(stats.get("_p"), event.start_ns + event.duration_ns)
        yield _event(event, stats, line_name, max(end, event.start_ns))


def _event(event: Any, stats: dict[str, Any], line: str, end: float) -> Event:
    return Event(
        name=event.name,
        op=str(stats.get("hlo_op", "")),
        module=str(stats.get("hlo_module", "")),
        run=str(stats.get("run_id", "")),
        line=line,
        start=event.start_ns,
        end=end,
        details=str(stats.get("kernel_details", "")),
    )


def _stats(event: Any) -> dict[str, Any]:
    return {name: value for name, value in event.stats if name is not None}
