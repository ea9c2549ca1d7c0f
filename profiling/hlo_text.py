"""Reads optimised HLO text: its computations, their instructions, and where each came from."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from profiling.scopes import OTHER, SAMPLING, scope_of

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"^([\w\-]+)\(")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_NAME = re.compile(r"[\w.\-]+")
_PALLAS = re.compile(r"([\w.\-]+)/mpmd_map$")
_LIBRARY = re.compile(r'custom_call_target="__cu(?:blas|dnn)')
_MODULE = re.compile(r"^HloModule ([\w.\-]+)")

# no work on the device, or only that of what they contain
CONTAINERS = frozenset({"while", "conditional", "call"})
FREE = frozenset({"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"})


@dataclass(frozen=True)
class Instruction:
    """One line: `name = shape opcode(operands), …`; `path` is where the code made it, or empty."""

    name: str
    shape: str
    opcode: str
    rest: str

    @property
    def path(self) -> str:
        """The scopes and the operation that it was traced from."""
        found = _OP_NAME.search(self.rest)
        return found[1] if found else ""

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs."""
        branches = [name for found in _BRANCHES.findall(self.rest) for name in _NAME.findall(found)]
        return (*_CALLED.findall(self.rest), *branches)


@dataclass(frozen=True)
class Module:
    """A compiled program; `entry` names the computation it starts with."""

    name: str
    entry: str
    computations: dict[str, tuple[Instruction, ...]]

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        """Every instruction of every computation."""
        return {i.name: i for body in self.computations.values() for i in body}

    @cached_property
    def kernel_names(self) -> dict[str, Instruction]:
        """The same by the names that kernels have on a GPU: no dots, no dashes."""
        return {re.sub(r"[.\-]", "_", name): i for name, i in self.by_name.items()}

    @cached_property
    def scheduled(self) -> tuple[Instruction, ...]:
        """What runs: instructions of the entry and of loops, branches and calls within it."""
        return tuple(self._runs(self.entry))

    @cached_property
    def mosaic_kernels(self) -> dict[str, list[Instruction]]:
        """Calls of Pallas kernels by their names on a GPU, in the order in which they run."""
        found: dict[str, list[Instruction]] = {}
        for instruction in self.scheduled:
            if instruction.opcode == "custom-call" and (name := _PALLAS.search(instruction.path)):
                found.setdefault(f"{name[1]}_mosaic_gpu_kernel", []).append(instruction)
        return found

    @cached_property
    def library_calls(self) -> list[Instruction]:
        """Calls of cuBLAS and cuDNN, whose kernels have names of their own, as they run."""
        return [i for i in self.scheduled if _LIBRARY.search(i.rest)]

    def scope(self, instruction: Instruction) -> str:
        """Its scope; of a fusion without a path, that of most of what was fused.

        XLA forgets where some operations of a choice came from, as GPUs' top_k.
        """
        if instruction.path:
            return scope_of(instruction.path)
        inside = Counter(
            scope_of(i.path)
            for name in instruction.called
            for i in self.computations.get(name, ())
            if i.path
        )
        if inside:
            return inside.most_common(1)[0][0]
        return SAMPLING if self.name.startswith("jit_sample_") else OTHER

    def _runs(self, computation: str) -> list[Instruction]:
        found = []
        for instruction in self.computations[computation]:
            if instruction.opcode in CONTAINERS:
                for name in instruction.called:
                    found += self._runs(name)
            elif instruction.opcode not in FREE:
                found.append(instruction)
        return found


def parse_hlo(text: str) -> Module:
    """The module of `compiled.as_text()`.

    Raises:
        ValueError: the text is not an HLO module.
    """
    title = _MODULE.match(text)
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current and (found := _INSTRUCTION.match(line)):
            computations[current].append(_instruction(found[2], found[3]))
    if not title or not entry:
        raise ValueError("not the text of an HLO module: no title or no entry computation")
    return Module(title[1], entry, {name: tuple(body) for name, body in computations.items()})


def _instruction(name: str, right: str) -> Instruction:
    shape, rest = _split_shape(right)
    found = _OPCODE.match(rest)
    return Instruction(name, shape, found[1] if found else "", rest)


def _split_shape(right: str) -> tuple[str, str]:
    """The type of the result, a tuple's in parentheses, and what follows it."""
    depth = 0
    for i, character in enumerate(right):
        depth += (character in "([{") - (character in ")]}")
        if character == " " and not depth:
            return right[:i], right[i + 1 :]
    return right, ""
