"""What differs between two optimised programs: operations by kind, fusions by what they compute."""

import re
from collections import Counter

from profiling.hlo_text import Instruction, Module

_NAME = re.compile(r"%[\w.\-]+")
_TAIL = re.compile(r", (?:metadata|backend_config|sharding|frontend_attributes)=\{.*$")
_KIND = re.compile(r"kind=(\w+)")
_CONFIG = re.compile(r'"(?:fusion_backend_config|gemm_backend_config)":(\{.*\})')
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
# Mosaic's kernels all have one target; the last part of where they were traced from is theirs alike
_KERNEL = re.compile(r"([\w.\-]+)/mpmd_map$")
_OPERANDS = re.compile(r"operand_layout_constraints=\{(.*?\})\}")
_LAYOUT = re.compile(r"\{[\d,]*\}")
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
    lines = lines or ["no difference"]
    if any(_KERNEL.search(i.path) for module in (old, new) for i in module.scheduled):
        lines.append("(kernels of Mosaic are compared by name and shapes, not by what they do)")
    return "\n".join(lines)


def normalised(module: Module, instruction: Instruction) -> str:
    """A fusion's body with its names numbered in order, without where it was traced from.

    The same for the same computation by the same means (the tiles and warps that tuning chose),
    whatever the compiler called its parts.
    """
    numbers: dict[str, str] = {}

    def number(name: str) -> str:
        return numbers.setdefault(name, f"%{len(numbers)}")

    kind = _KIND.search(instruction.rest)
    means = _CONFIG.search(instruction.rest)
    head = f"{kind[1] if kind else instruction.opcode} {instruction.shape}"
    lines = [f"{head} {means[1]}" if means else head]
    for called in instruction.called:
        for inner in module.computations.get(called, ()):
            text = _INDEX.sub("", _TAIL.sub("", inner.rest))
            text = _NAME.sub(lambda found: number(found[0]), text)
            lines.append(f"{number('%' + inner.name)} = {inner.shape} {text}")
    return "\n".join(lines)


def _kinds(module: Module) -> Counter[str]:
    """Scheduled operations, fusions by their kind, custom calls by target, kernel and shapes."""
    kinds: Counter[str] = Counter()
    for instruction in module.scheduled:
        found = _KIND.search(instruction.rest)
        detail = found[1] if found else _call(instruction)
        kinds[f"{instruction.opcode} {detail}".strip()] += 1
    return kinds


def _call(instruction: Instruction) -> str:
    """What a custom call calls; empty for other operations."""
    target = _TARGET.search(instruction.rest)
    if not target:
        return ""
    kernel, operands = _KERNEL.search(instruction.path), _OPERANDS.search(instruction.rest)
    name = f"{target[1]} {kernel[1]}" if kernel else target[1]
    shapes = f"({operands[1]}) → {instruction.shape}" if operands else instruction.shape
    return f"{name} {_LAYOUT.sub('', shapes)}"


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
