"""Finds tool calls in an answer while it is written.

Qwen2.5 writes a call as it was taught, Qwen2.5-Coder in one of several ways:

    <tool_call>{"name": "f", "arguments": {…}}</tool_call>      also several in one pair of tags
    <tools>{"name": "f", "arguments": {…}}</tools>
    ```json                                                     or without "json"
    {"name": "f", "arguments": {…}}
    ```
    {"name": "f", "arguments": {…}}                             at the beginning of a line

each also with "parameters" for "arguments", and with a list of calls. What is none of these, or
names no tool that was offered, is text.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from runtime.text.json_scan import CallScan, ValueScan, read_call

OPENERS = ("<tool_call>", "<tools>", "```json", "```tool_call", "```\n")
CLOSERS = ("</tool_call>", "</tools>", "```")
_PLAIN = re.compile(r"[^\s<`{\[]+")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class ContentPart:
    """Text that is no call."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """A call begins; `index` counts the answer's calls from 0."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """More of the arguments of call `index`: JSON, as the model spells it."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnd:
    """Call `index` has all of its arguments (or the answer has ended within them)."""

    index: int


type ToolEvent = ContentPart | CallStart | CallArguments | CallEnd


class ToolCallParser:
    """Text in, in pieces as they come; text and calls out. Linear in the text.

    How the text is cut into pieces changes how content and arguments are cut, and nothing else.
    White space between calls, and around them, is dropped; nothing else is.

    Args:
        names: the tools that were offered; a call of another is text.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._num_calls = 0
        self._state: Literal["text", "tag", "before", "call", "arguments", "after"] = "text"
        # What may turn out to be text, or part of a call; then a tag that is not whole yet.
        self._held: list[str] = []
        self._tag = ""
        self._at_line_start = True
        self._follows_call = False
        self._in_tags = False
        self._in_list = False
        self._call = CallScan(self._names)
        self._call_begin = 0  # where in `_held`
        self._is_started = False  # this call's `CallStart` is out
        self._arguments = ValueScan()
        self._text: list[str] = []
        self._events: list[ToolEvent] = []

    def feed(self, piece: str) -> list[ToolEvent]:
        """What a further piece of the answer brings."""
        at = 0
        while at < len(piece):
            match self._state:
                case "text":
                    at = self._read_text(piece, at)
                case "tag":
                    at = self._read_tag(piece, at)
                case "before":
                    at = self._read_before(piece, at)
                case "call":
                    at = self._read_call(piece, at)
                case "arguments":
                    at = self._read_arguments(piece, at)
                case "after":
                    at = self._read_after(piece, at)
        return self._take_events()

    def finish(self) -> list[ToolEvent]:
        """What is left when the answer has ended."""
        if self._state == "arguments":
            self._emit(CallEnd(self._num_calls - 1))
        if self._state == "after":
            self._tag = ""  # the beginning of a closer, at most
        self._give_up()
        return self._take_events()

    def _read_text(self, piece: str, at: int) -> int:
        if plain := _PLAIN.match(piece, at):
            self._write(plain.group())
            return plain.end()
        if space := _SPACE.match(piece, at):
            self._held.append(space.group())  # dropped if a call follows
            self._at_line_start |= "\n" in space.group()
            return space.end()
        letter = piece[at]
        if letter in "<`":
            self._state, self._tag = "tag", letter
        elif self._at_line_start and letter in "{[":
            self._in_tags = self._in_list = False
            self._state = "before"
            return at
        else:
            self._write(letter)
        return at + 1

    def _read_tag(self, piece: str, at: int) -> int:
        tag = self._tag + piece[at]
        if not any(opener.startswith(tag) for opener in OPENERS):
            self._give_up()
            return at
        if tag in OPENERS:
            self._open(tag)
        else:
            self._tag = tag
        return at + 1

    def _read_before(self, piece: str, at: int) -> int:
        if space := _SPACE.match(piece, at):
            self._held.append(space.group())
            return space.end()
        if piece[at] == "{":
            self._call = CallScan(self._names)
            self._call_begin = len(self._held)
            self._is_started = False
            self._state = "call"
            return at
        if piece[at] == "[" and not self._in_list:
            self._in_list = True
            self._held.append("[")
            return at + 1
        self._give_up()
        return at

    def _read_call(self, piece: str, at: int) -> int:
        end = self._call.scan(piece, at)
        self._held.append(piece[at:end])
        match self._call.outcome:
            case "arguments":
                self._start(self._call.name or "")
                self._arguments = ValueScan()
                self._state = "arguments"
            case "ended" if self._is_started or self._start_whole():
                self._held.clear()
                self._follows_call = self._at_line_start = True
                self._state = "after" if self._in_tags or self._in_list else "text"
            case "ended" | "failed":
                self._give_up()
        return end

    def _read_arguments(self, piece: str, at: int) -> int:
        end = self._arguments.skip(piece, at)
        self._emit(CallArguments(self._num_calls - 1, piece[at:end]))
        if self._arguments.is_done:
            self._emit(CallEnd(self._num_calls - 1))
            self._follows_call = True
            self._call.resume()
            self._state = "call"
        return end

    def _read_after(self, piece: str, at: int) -> int:
        letter = piece[at]
        tag = self._tag + letter
        if tag in CLOSERS:
            self._held.clear()
            self._state, self._tag = "text", ""
        elif tag in OPENERS:  # the last one was not closed
            self._open(tag)
        elif any(known.startswith(tag) for known in (*CLOSERS, *OPENERS)):
            self._tag = tag
        elif self._tag:
            self._give_up()
            return at
        elif letter == "]" and self._in_list:
            self._held.clear()
            self._in_list = False
            self._state = "after" if self._in_tags else "text"
        elif letter == "," or letter.isspace():
            self._held.append(letter)
        else:
            self._state = "before"
            return at
        return at + 1

    def _open(self, tag: str) -> None:
        self._held.append(tag)
        self._tag = ""
        self._in_tags, self._in_list = True, False
        self._state = "before"

    def _start(self, name: str) -> None:
        self._held.clear()
        self._emit(CallStart(self._num_calls, name))
        self._num_calls += 1
        self._is_started = True

    def _start_whole(self) -> bool:
        """The call that is held, whole, as events; False if it is none."""
        call = read_call("".join(self._held[self._call_begin :]), self._names)
        if call is None:
            return False
        name, arguments = call
        self._start(name)
        self._emit(CallArguments(self._num_calls - 1, arguments))
        self._emit(CallEnd(self._num_calls - 1))
        return True

    def _give_up(self) -> None:
        """What is held is text after all."""
        tag, self._tag = self._tag, ""
        self._state = "text"
        if tag or self._held:
            self._write(tag)

    def _write(self, text: str) -> None:
        text = "".join((*self._held, text))
        self._held.clear()
        if self._follows_call:
            text = text.lstrip()
        if text:
            self._text.append(text)
            self._follows_call = self._at_line_start = False

    def _emit(self, event: ToolEvent) -> None:
        self._flush_text()
        self._events.append(event)

    def _flush_text(self) -> None:
        if self._text:
            self._events.append(ContentPart("".join(self._text)))
            self._text.clear()

    def _take_events(self) -> list[ToolEvent]:
        self._flush_text()
        events, self._events = self._events, []
        return events
