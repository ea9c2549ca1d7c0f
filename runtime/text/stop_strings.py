"""Ends a text at the first stop string, wherever the pieces of the text are cut."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_STOPS = 16


@dataclass(frozen=True)
class StopResult:
    """Text that may be shown, and the stop string that ended it, if one has."""

    text: str
    stopped: str | None


@dataclass(eq=False)
class _Node:
    """A prefix of some stop string.

    `fallback` is its longest proper suffix that is a prefix too; `match` the longest stop string
    that ends here.
    """

    depth: int
    children: dict[str, "_Node"] = field(default_factory=dict)
    fallback: "_Node | None" = None
    match: str | None = None


class StopMatcher:
    """Finds the stop string that is complete first; of two at once, the longer.

    Text that may be the beginning of a stop string is held back until that is decided, so what is
    shown does not depend on how the text was cut. Linear in the text (Aho and Corasick 1975).

    Args:
        stops: at most 16 strings, none empty.
        include: show the stop string itself too.

    Raises:
        ValueError: too many stops, or an empty one.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        if len(stops) > MAX_STOPS:
            raise ValueError(f"at most {MAX_STOPS} stop strings, got {len(stops)}")
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        self._include = include
        self._node = self._root = _automaton(stops)
        self._held = ""
        self._stopped: str | None = None

    def push(self, text: str) -> StopResult:
        """Takes the next piece; after a stop, everything is swallowed."""
        if self._stopped is not None:
            return StopResult("", self._stopped)
        if not self._root.children:
            return StopResult(text, None)
        known = len(self._held)
        whole = self._held + text
        for index, char in enumerate(text):
            self._node = self._next(char)
            stop = self._node.match
            if stop is not None:
                end = known + index + 1
                self._stopped, self._held = stop, ""
                return StopResult(whole[: end if self._include else end - len(stop)], stop)
        shown = len(whole) - self._node.depth
        self._held = whole[shown:]
        return StopResult(whole[:shown], None)

    def flush(self) -> StopResult:
        """What was held back; the text has ended."""
        held, self._held = self._held, ""
        self._node = self._root
        return StopResult(held, self._stopped)

    def _next(self, char: str) -> _Node:
        node: _Node | None = self._node
        while node is not None and char not in node.children:
            node = node.fallback
        return self._root if node is None else node.children[char]


def _automaton(stops: Sequence[str]) -> _Node:
    root = _Node(depth=0)
    for stop in stops:
        node = root
        for char in stop:
            node = node.children.setdefault(char, _Node(depth=node.depth + 1))
        node.match = stop
    waiting = deque([root])
    while waiting:  # by depth: a node's fallback is shallower, so it is finished
        parent = waiting.popleft()
        for char, node in parent.children.items():
            other = parent.fallback
            while other is not None and char not in other.children:
                other = other.fallback
            node.fallback = root if other is None else other.children[char]
            node.match = node.match or node.fallback.match
            waiting.append(node)
    return root
