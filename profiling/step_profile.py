"""Sums the events of a trace by scope and by kernel, and finds where the device waited."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from profiling.events import Event
from profiling.hlo_text import CONTAINERS, Instruction, Module
from profiling.scopes import COPIES, LAYER_SCOPES, OTHER, is_copy


@dataclass(frozen=True)
class Share:
    """Seconds and number of events."""

    seconds: float
    count: int


@dataclass(frozen=True)
class Busy:
    """When the device worked, in seconds, from its first event to its last.

    Attributes:
        window: the whole.
        busy: in which at least one event ran.
        between: without any, where one execution of a program ends and another begins.
        within: without any, inside an execution.
    """

    window: float
    busy: float
    between: float
    within: float


@dataclass(frozen=True)
class StepProfile:
    """A trace of some steps, summed; a kernel's name is without its number."""

    scopes: dict[str, Share]
    kernels: dict[tuple[str, str], Share]  # (scope, kernel)
    busy: Busy

    def kernels_per_layer(self, num_layers: int, num_steps: int) -> float:
        """Events of a layer in a step."""
        inside = sum(self.scopes[scope].count for scope in LAYER_SCOPES if scope in self.scopes)
        return inside / num_layers / num_steps


def summarise(events: Iterable[Event], modules: Mapping[str, Module]) -> StepProfile:
    """Sums events by the scope that the HLO of their program gives them.

    An event says which operation it is of; where it does not (a kernel in a CUDA graph, a library),
    it is looked for by its name, and where the name does not tell (Pallas kernels, which share
    theirs, and libraries) by its place among its like. Loops and branches are left out: what they
    contain has events.

    Args:
        modules: parsed programs, by name.

    Raises:
        ValueError: there are no events.
    """
    scopes: dict[str, list[float]] = defaultdict(list)
    kernels: dict[tuple[str, str], list[float]] = defaultdict(list)
    leaves = []
    events = sorted(events, key=lambda event: event.start)
    for event, known in zip(events, _by_order(events, modules), strict=True):
        scope, opcode = _origin(event, known, modules)
        if opcode in CONTAINERS:
            continue
        leaves.append(event)
        scopes[scope].append(event.seconds)
        kernels[scope, _kernel(event.name)].append(event.seconds)
    if not leaves:
        raise ValueError("the trace has no kernel of a step")
    return StepProfile(
        scopes={name: Share(sum(times), len(times)) for name, times in scopes.items()},
        kernels={name: Share(sum(times), len(times)) for name, times in kernels.items()},
        busy=busy_time(leaves),
    )


def busy_time(events: Sequence[Event]) -> Busy:
    """When at least one of the events ran; overlapping ones count once."""
    ordered = sorted(events, key=lambda event: event.start)
    gaps = {True: 0.0, False: 0.0}
    last = ordered[0]
    end = last.start
    for event in ordered:
        if event.start > end:
            same_run = (event.module, event.run) == (last.module, last.run)
            gaps[same_run] += (event.start - end) * 1e-9
        if event.end >= end:
            end, last = event.end, event
    window = (end - ordered[0].start) * 1e-9
    return Busy(window, window - sum(gaps.values()), between=gaps[False], within=gaps[True])


def modules_of(events: Iterable[Event]) -> Counter[str]:
    """Programs that the events name, with how many they have."""
    return Counter(event.module for event in events if event.module)


def _by_order(events: Sequence[Event], modules: Mapping[str, Module]) -> list[Instruction | None]:
    """The operations of kernels that do not name theirs: Pallas kernels of one name, or libraries'.

    A graph runs its kernels in the order of the program, each execution all of them; where one is
    missing, nobody knows which.
    """
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, event in enumerate(events):
        module = modules.get(event.module)
        if module is None or event.op in module.by_name or event.name in module.kernel_names:
            continue
        if event.name in module.mosaic_kernels:
            places[event.module, event.name].append(i)
        elif not is_copy(event.name):
            places[event.module, ""].append(i)
    found: list[Instruction | None] = [None] * len(events)
    for (module_name, name), own in places.items():
        module = modules[module_name]
        operations = module.mosaic_kernels[name] if name else module.library_calls
        if operations and len(own) % len(operations) == 0:
            for i, operation in zip(own, itertools.cycle(operations), strict=False):
                found[i] = operation
    return found


def _origin(
    event: Event, known: Instruction | None, modules: Mapping[str, Module]
) -> tuple[str, str]:
    """Scope and opcode."""
    module = modules.get(event.module)
    instruction = module.by_name.get(event.op, known) if module else None
    if module is None or instruction is None:
        for candidate in modules.values():
            if instruction := candidate.kernel_names.get(event.name):
                module = candidate
                break
    if module is None or instruction is None:
        return (COPIES if is_copy(event.name) else OTHER), ""
    scope = module.scope(instruction)
    if scope == OTHER and is_copy(instruction.opcode):
        return COPIES, instruction.opcode
    return scope, instruction.opcode


def _kernel(name: str) -> str:
    return re.sub(r"([._]\d+)+$", "", name)
