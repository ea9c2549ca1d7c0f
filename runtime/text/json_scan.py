"""Follows JSON as it is written: where a value ends, and what an object's first keys are."""

import json
import re
from typing import Literal

_IN_STRING = re.compile(r'[^"\\]+')
_OUTSIDE = re.compile(r'[^"{}\[\]]+')
_SPACE = " \t\r\n"
_SCALAR = frozenset("0123456789+-.aeflnrstuE")
MAX_KEY_CHARS = 256


class ValueScan:
    """Finds the end of one object, array or string; each character is looked at once.

    Attributes:
        is_done: the value has ended.
    """

    def __init__(self) -> None:
        self.is_done = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def skip(self, text: str, start: int) -> int:
        """The position after what belongs to the value, from its first character on."""
        at = start
        while at < len(text) and not self.is_done:
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            run = (_IN_STRING if self._in_string else _OUTSIDE).match(text, at)
            if run is not None:
                at = run.end()
                continue
            self._take(text[at])
            at += 1
        return at

    def _take(self, letter: str) -> None:
        if letter == "\\":
            self._escaped = True
            return
        if letter == '"':
            self._in_string = not self._in_string
        else:
            self._depth += 1 if letter in "{[" else -1
        self.is_done = self._depth == 0 and not self._in_string


class CallScan:
    """Follows `{"name": …, "arguments": {…}}` up to where its arguments begin, or to its end.

    Attributes:
        outcome: None while it goes on; "arguments" when the name is known and the next character
            begins the arguments; "ended" after the last brace; "failed" where it is no call.
        name: the function's name, once read.
    """

    # First keys by which an object may be a call. Any other ends the wait, so that JSON which is
    # an answer in itself streams on.
    KEYS = frozenset({"name", "arguments", "parameters", "id", "type"})
    ARGUMENTS = frozenset({"arguments", "parameters"})

    def __init__(self, names: frozenset[str]) -> None:
        self.outcome: Literal["arguments", "ended", "failed"] | None = None
        self.name: str | None = None
        self._names = names
        self._await: Literal["{", "key", ":", "value", "scalar", ","] = "{"
        self._key = ""
        self._value: ValueScan | None = None
        self._string: list[str] = []  # a key, or the name, as it is spelled

    def scan(self, text: str, start: int) -> int:
        """Goes on until there is an outcome; the position of what was not taken."""
        at = start
        while at < len(text) and self.outcome is None:
            if self._value is not None:
                at = self._through_value(self._value, text, at)
            elif self._await == "scalar" and text[at] in _SCALAR:
                at += 1
            else:
                at += self._take(text[at])
        return at

    def resume(self) -> None:
        """Goes on after the arguments, which somebody else has read."""
        self.outcome = None
        self._await = ","

    def _through_value(self, value: ValueScan, text: str, start: int) -> int:
        at = value.skip(text, start)
        keeps = self._await == "key" or self._key == "name"
        if keeps:
            self._string.append(text[start:at])
            if sum(map(len, self._string)) > MAX_KEY_CHARS:
                self.outcome = "failed"
        if value.is_done:
            self._value = None
            if keeps:
                self._read_string()
            self._await = ":" if self._await == "key" else ","
        return at

    def _read_string(self) -> None:
        spelled, self._string = "".join(self._string), []
        try:
            text = json.loads(spelled)
        except json.JSONDecodeError:
            self.outcome = "failed"
            return
        if self._await == "key":
            self._key = text
            known = self.name is not None or text in self.KEYS
        else:
            self.name = text if isinstance(text, str) else None
            known = self.name in self._names
        if not known:
            self.outcome = "failed"

    def _take(self, letter: str) -> int:
        """Takes one character between values, or none where it begins or ends something."""
        if letter in _SPACE:
            if self._await == "scalar":
                self._await = ","
            return 1
        match self._await:
            case "{" if letter == "{":
                self._await = "key"
            case "key" if letter == '"':
                self._value = ValueScan()
                return 0
            case ":" if letter == ":":
                self._await = "value"
            case "value":
                return self._begin_value(letter)
            case "scalar" | "," if letter == ",":
                self._await = "key"
            case "scalar" | "," if letter == "}":
                self.outcome = "ended"
            case _:
                self.outcome = "failed"
                return 0
        return 1

    def _begin_value(self, letter: str) -> int:
        if letter == "{" and self._key in self.ARGUMENTS and self.name is not None:
            self.outcome = "arguments"
        elif letter in '"{[':
            self._value = ValueScan()
        elif letter in _SCALAR and self._key != "name":
            self._await = "scalar"
        else:
            self.outcome = "failed"
        return 0


def read_call(spelled: str, names: frozenset[str]) -> tuple[str, str] | None:
    """Name and arguments of a call that stands there whole; None where it is no call.

    Arguments may be missing, for a function without any, or be JSON in a string.
    """
    try:
        call = json.loads(spelled)
    except (json.JSONDecodeError, RecursionError):
        return None
    given = call.get("arguments", call.get("parameters", {}))
    if isinstance(given, str):
        return (call["name"], given) if _is_object(given) and call.get("name") in names else None
    if not isinstance(given, dict) or call.get("name") not in names:
        return None
    return call["name"], json.dumps(given, ensure_ascii=False)


def _is_object(spelled: str) -> bool:
    try:
        return isinstance(json.loads(spelled), dict)
    except (json.JSONDecodeError, RecursionError):
        return False
