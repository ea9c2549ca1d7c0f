"""An answer that may call tools, in OpenAI's words: as deltas while it comes, or as a message."""

import uuid
from collections.abc import Iterable
from typing import Any

from runtime.text.tool_calls import (
    CallArguments,
    CallEnd,
    CallStart,
    ContentPart,
    ToolCallParser,
    ToolEvent,
)


class ToolDeltas:
    """The deltas of one answer: text, or the beginning of one call, or more of its arguments.

    Args:
        names: the tools that were offered.
        one_call: what follows the first call is dropped, be it of the token that completes it.

    Attributes:
        has_calls: whether a call has begun.
    """

    def __init__(self, names: Iterable[str], *, one_call: bool) -> None:
        self.has_calls = False
        self._parser = ToolCallParser(frozenset(names))
        self._one_call = one_call
        self._is_over = False

    def feed(self, text: str) -> list[dict[str, Any]]:
        """What a further piece of text brings; perhaps nothing yet."""
        return self._deltas(self._parser.feed(text))

    def finish(self) -> list[dict[str, Any]]:
        """What is left when the text has ended."""
        return self._deltas(self._parser.finish())

    def _deltas(self, events: Iterable[ToolEvent]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        arguments: dict[str, Any] | None = None  # of one call, from several events
        for event in events:
            if self._is_over:
                break
            if isinstance(event, CallArguments):
                if arguments is None:
                    arguments = {"arguments": ""}
                    found.append(_call_delta(event.index, {"function": arguments}))
                arguments["arguments"] += event.text
                continue
            arguments = None
            match event:
                case ContentPart(text=text):
                    found.append({"content": text})
                case CallStart(index=index, name=name):
                    self.has_calls = True
                    found.append(_start_delta(index, name))
                case CallEnd():
                    self._is_over = self._one_call
        return found


class FirstCall:
    """Says when the first call of an answer is complete: it has a name and all its arguments."""

    def __init__(self, names: Iterable[str]) -> None:
        self._parser = ToolCallParser(frozenset(names))
        self._is_complete = False

    def feed(self, text: str) -> bool:
        """Takes a further piece of text; True once and for ever after the call."""
        if not self._is_complete:
            events = self._parser.feed(text)
            self._is_complete = any(isinstance(event, CallEnd) for event in events)
        return self._is_complete


def message_of(deltas: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The message that an answer's deltas make up."""
    content: str | None = None
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        if "content" in delta:
            content = (content or "") + delta["content"]
            continue
        (call,) = delta["tool_calls"]
        if "id" in call:
            calls.append({"id": call["id"], "type": "function", "function": call["function"]})
        else:
            calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    message = {"role": "assistant", "content": content, "refusal": None}
    return message | {"tool_calls": calls} if calls else message | {"content": content or ""}


def _start_delta(index: int, name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": ""}
    call_id = f"call_{uuid.uuid4().hex[:24]}"
    return _call_delta(index, {"id": call_id, "type": "function", "function": function})


def _call_delta(index: int, fields: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": [{"index": index} | fields]}
