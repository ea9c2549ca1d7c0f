"""What each kernel takes of a GPU's cores: registers, shared memory, occupancy."""

from collections.abc import Iterable, Mapping

import jax

from profiling.events import Event
from profiling.table import MISSING, text_table

COLUMNS = {
    "registers": "regs",
    "static shared B": "static_shared",
    "dynamic shared B": "dynamic_shared",
    "grid": "grid",
    "block": "block",
    "occupancy %": "occ_pct",
}
NOT_ON_CPU = "kernels' resource use: – (CPUs have none to tell)"
NOT_TOLD = "kernels' resource use: – (the trace does not say)"


def resources(event: Event) -> Mapping[str, str]:
    """Of one kernel, as the driver reports them; empty where it does not."""
    pairs = (part.partition(":") for part in event.details.split())
    return {key: value for key, _, value in pairs}


def resource_table(events: Iterable[Event], top: int) -> str:
    """The kernels that took longest, and what they occupy; a line with the reason if none says."""
    first: dict[str, Event] = {}
    total: dict[str, float] = {}
    for event in events:
        if event.details:
            first.setdefault(event.name, event)
            total[event.name] = total.get(event.name, 0.0) + event.seconds
    if not first:
        return NOT_ON_CPU if jax.default_backend() == "cpu" else NOT_TOLD
    rows = []
    for name in sorted(total, key=lambda name: -total[name])[:top]:
        found = resources(first[name])
        rows.append([name[:60], *(found.get(key, MISSING) for key in COLUMNS.values())])
    return text_table(["kernel", *COLUMNS], rows)
