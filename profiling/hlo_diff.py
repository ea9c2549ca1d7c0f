"""What differs between two optimised programs: operations by kind, fusions by what they compute."""

import re
from collections import Counter

from profiling.hlo_text import Instruction, Module

_NAME = re.compile(r"%[\w.\-]+")
_TAIL = re.compile(r", (?:metadata|backend_config|sharding|frontend_attributes)=\{.*$")
_KIND = re.compile(r"kind=(\w+)")
_INDEX = re.compile(r"/\*index=\d+\*/")


def diff_modules(old: Module, new: Module, *, top: int = 20) -> str:
    """A short list; empty lines for what is equal are left out, and "no difference" if all is."""
    lines = [
        f"{kind:32} {before:5} → {after:5}  ({after - before:+d})"
        for kind, before, after in _changes(_kinds(old), _kinds(new))
    ]
    fusions = _changes(_fusions(old), _fusions(new))
    removed = [(what, before - after) for what, before, after in fusions if before > after]
    added = [(what, after - before) for what, before, after in fusions if after > before]
    for sign, changed in (("-", removed), ("+", added)):
        for what, count in sorted(changed, key=lambda item: -item[1])[:top]:
            lines.append(f"{sign} {count} × {_describe(what)}")
        if len(changed) > top:
            lines.append(f"{sign} … and {len(changed) - top} other fusions")
    return "\n".join(lines) or "no difference"


def normalised(module: Module, instruction: Instruction) -> str:
    """A fusion's body with its names numbered in order, without where it was traced from.

    The same for the same computation, whatever the compiler called its parts.
    """
    numbers: dict[str, str] = {}

    def number(name: str) -> str:
        return numbers.setdefault(name, f"%{len(numbers)}")

    kind = _KIND.search(instruction.rest)
    lines = [f"{kind[1] if kind else instruction.opcode} {instruction.shape}"]
    for called in instruction.called:
        for inner in module.computations.get(called, ()):
            text = _INDEX.sub("", _TAIL.sub("", inner.rest))
            text = _NAME.sub(lambda found: number(found[0]), text)
            lines.append(f"{number('%' + inner.name)} = {inner.shape} {text}")
    return "\n".join(lines)


def _kinds(module: Module) -> Counter[str]:
    """Scheduled operations, fusions by their kind, custom calls by their target."""
    kinds: Counter[str] = Counter()
    for instruction in module.scheduled:
        found = _KIND.search(instruction.rest)
        target = re.search(r'custom_call_target="([^"]+)"', instruction.rest)
        detail = found[1] if found else target[1] if target else ""
        kinds[f"{instruction.opcode} {detail}".strip()] += 1
    return kinds


def _fusions(module: Module) -> Counter[str]:
    return Counter(normalised(module, i) for i in module.scheduled if i.opcode == "fusion")


def _changes(old: Counter[str], new: Counter[str]) -> list[tuple[str, int, int]]:
    return [
        (key, old[key], new[key]) for key in sorted(old.keys() | new.keys()) if old[key] != new[key]
    ]


def _describe(body: str) -> str:
    """The kind, the result and the operations of a normalised body."""
    head, *lines = body.split("\n")
    opcodes = Counter(
        found[1] for line in lines if (found := re.search(r" ([\w\-]+)\(", line.split(" = ", 1)[1]))
    )
    opcodes.pop("parameter", None)
    inside = ", ".join(f"{n} {op}" if n > 1 else op for op, n in opcodes.most_common(8))
    return f"{head}: {inside}"
