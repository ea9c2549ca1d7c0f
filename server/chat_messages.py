"""A chat's messages as they come over HTTP, checked part by part."""

from typing import Any

from runtime.errors import RequestError, UnsupportedParameter
from runtime.text.chat_template import ROLES
from server.limits import MAX_MESSAGES

TEXT: dict[str, Any] = {"type": "string"}
TEXT_PARTS = {
    "type": "array",
    "items": {
        "title": "TextPart",
        "type": "object",
        "properties": {"type": {"const": "text"}, "text": TEXT},
        "required": ["type", "text"],
    },
}
CALLED = {
    "title": "CalledFunction",
    "type": "object",
    "properties": {"name": TEXT, "arguments": TEXT},
    "required": ["name", "arguments"],
}
CALL = {
    "title": "ToolCall",
    "type": "object",
    "properties": {"id": TEXT, "type": {"const": "function"}, "function": CALLED},
    "required": ["id", "type", "function"],
}
# for readers of the document; what is checked is below
MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "title": "Message",
        "type": "object",
        "properties": {
            "role": {"enum": sorted(ROLES)},
            "content": {"anyOf": [TEXT, TEXT_PARTS, {"type": "null"}]},
            "name": TEXT,
            "tool_calls": {"type": "array", "items": CALL},
            "tool_call_id": TEXT,
        },
        "required": ["role"],
    },
}
# What OpenAI's client writes back when an answer of ours becomes part of the next call.
EMPTY_FIELDS = frozenset({"refusal", "audio", "function_call", "annotations"})
# field: types of its value
FIELDS: dict[str, tuple[type, ...]] = {
    "role": (str,),
    "content": (str, list),
    "name": (str,),
    "tool_calls": (list,),
    "tool_call_id": (str,),
    "reasoning_content": (str,),
}


def parse_messages(value: Any) -> Any:
    """The messages, without fields that hold nothing.

    Raises:
        RequestError: they are no list of messages.
        UnsupportedParameter: one holds an image, audio or a file.
    """
    if value is None:
        return value  # whether it may be missing is the schema's business
    if not isinstance(value, list):
        raise RequestError("messages must be a list", param="messages", code="invalid_type")
    if not 0 < len(value) <= MAX_MESSAGES:
        raise RequestError(
            f"messages needs 1 to {MAX_MESSAGES} entries, got {len(value)}", param="messages"
        )
    return [_message(message, f"messages.{index}") for index, message in enumerate(value)]


def _message(message: Any, path: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise RequestError(f"{path} must be an object", param=path, code="invalid_type")
    kept: dict[str, Any] = {}
    for name, value in message.items():
        where = f"{path}.{name[:64]}"
        if name in EMPTY_FIELDS:
            if value:
                raise UnsupportedParameter(f"{where} is not supported", param=where)
        elif name not in FIELDS:
            raise RequestError(f"unknown field {where}", param=where, code="unknown_parameter")
        elif value is not None:
            if not isinstance(value, FIELDS[name]):
                raise RequestError(f"{where} has the wrong type", param=where, code="invalid_type")
            kept[name] = value
    if "role" not in kept:
        raise RequestError(
            f"{path} has no role", param=f"{path}.role", code="missing_required_parameter"
        )
    if kept["role"] not in ROLES:
        raise RequestError(
            f"unknown role {kept['role'][:32]!r}; known are {', '.join(sorted(ROLES))}",
            param=f"{path}.role",
        )
    if "content" not in kept and not kept.get("tool_calls"):
        raise RequestError(
            f"{path} has no content", param=f"{path}.content", code="missing_required_parameter"
        )
    if isinstance(kept.get("content"), list):
        for index, part in enumerate(kept["content"]):
            _check_part(part, f"{path}.content.{index}")
    return kept


def _check_part(part: Any, path: str) -> None:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise RequestError(f"{path} must be an object with a type", param=path, code="invalid_type")
    if part["type"] != "text":
        raise UnsupportedParameter(
            f"{path}: only text is supported, not {part['type'][:32]!r}", param=f"{path}.type"
        )
    if not isinstance(part.get("text"), str):
        raise RequestError(f"{path}.text must be a string", param=path, code="invalid_type")
    unknown = [name for name in part if name not in ("type", "text")]
    if unknown:
        raise RequestError(
            f"unknown field {path}.{unknown[0][:64]}",
            param=f"{path}.{unknown[0][:64]}",
            code="unknown_parameter",
        )
