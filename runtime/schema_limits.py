"""Limits on JSON schemas from callers, checked before anything compiles them."""

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from runtime.errors import RequestError

MAX_SCHEMA_BYTES = 64 << 10
MAX_DEPTH = 16  # schemas inside schemas
MAX_PROPERTIES = 1000
MAX_ENUM_VALUES = 1000
MAX_BRANCHES = 64  # of one anyOf, oneOf or allOf
MAX_PATTERN_BYTES = 512
MAX_COUNT = 100_000  # in minLength, maxItems and their like

_COUNTS = (
    *("minLength", "maxLength", "minItems", "maxItems"),
    *("minProperties", "maxProperties"),
)
_BRANCHES = ("anyOf", "oneOf", "allOf")
# where the schemas inside a schema are: by name, in a list, or alone
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_LISTED = ("prefixItems", *_BRANCHES)
_SINGLE = ("items", "additionalProperties")


def check_schema(schema: Any, *, param: str) -> None:
    """Refuses a schema that is none, or larger than any use of it needs.

    What the keywords mean, and whether they are supported, is found out by compiling.

    Args:
        schema: the schema as JSON gave it.
        param: the field of the request that holds it, for the message.

    Raises:
        RequestError: with code "invalid_schema" or "schema_too_complex".
    """
    if not isinstance(schema, dict):
        _invalid(f"a schema must be a JSON object, got {type(schema).__name__}", param)
    num_properties = num_values = 0
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        current, depth = waiting.pop()
        if not isinstance(current, dict):
            continue  # true and false are schemas; what is none, the compiler names
        if depth > MAX_DEPTH:
            _too_complex(f"its schemas are nested deeper than {MAX_DEPTH}", param)
        _check_keywords(current, param)
        num_properties += sum(len(current[name]) for name in _NAMED if _is_dict(current, name))
        num_values += len(current["enum"]) if _is_list(current, "enum") else 0
        waiting.extend((inner, depth + 1) for inner in _subschemas(current))
    if num_properties > MAX_PROPERTIES:
        _too_complex(f"it has {num_properties:,} properties; at most {MAX_PROPERTIES:,}", param)
    if num_values > MAX_ENUM_VALUES:
        _too_complex(f"it has {num_values:,} enum values; at most {MAX_ENUM_VALUES:,}", param)


def schema_text(schema: str | dict[str, Any], *, param: str) -> str:
    """The schema as compact JSON, checked; the order of its properties is kept.

    Raises:
        RequestError: as `check_schema`, and where the text is no JSON or too long.
    """
    try:
        if isinstance(schema, str):
            check_length(schema, MAX_SCHEMA_BYTES, param=param)
            schema = json.loads(schema)
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        check_length(text, MAX_SCHEMA_BYTES, param=param)
    except RecursionError:
        _too_complex(f"its schemas are nested deeper than {MAX_DEPTH}", param)
    except json.JSONDecodeError as error:
        _invalid(f"the schema is not JSON: {error}", param)
    except (TypeError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        _invalid(f"the schema cannot be written as JSON: {error}", param)
    check_schema(schema, param=param)
    return text


def check_length(text: str, max_bytes: int, *, param: str) -> None:
    """Refuses text that UTF-8 cannot hold or that has more than `max_bytes` in it.

    Raises:
        RequestError: with code "invalid_schema" or "schema_too_complex".
    """
    try:
        num_bytes = len(text.encode())
    except UnicodeEncodeError:
        _invalid("it holds a lone surrogate", param)
    if num_bytes > max_bytes:
        _too_complex(f"it has {num_bytes:,} bytes; at most {max_bytes:,}", param)


def _check_keywords(schema: dict[str, Any], param: str) -> None:
    for name in ("$ref", "$dynamicRef"):
        target = schema.get(name)
        if isinstance(target, str) and not target.startswith("#"):
            _invalid(f"{name} must begin with '#', got {target!r}: nothing is fetched", param)
    patterns = [schema.get("pattern")]
    patterns += schema["patternProperties"] if _is_dict(schema, "patternProperties") else ()
    for pattern in patterns:
        if isinstance(pattern, str) and len(pattern.encode()) > MAX_PATTERN_BYTES:
            _too_complex(f"a pattern has more than {MAX_PATTERN_BYTES} bytes", param)
    for name in _COUNTS:
        count = schema.get(name)
        if isinstance(count, int | float) and count > MAX_COUNT:
            _too_complex(f"{name} is {count:,}; at most {MAX_COUNT:,}", param)
    for name in _BRANCHES:
        if _is_list(schema, name) and len(schema[name]) > MAX_BRANCHES:
            _too_complex(f"{name} has {len(schema[name])} branches; at most {MAX_BRANCHES}", param)


def _subschemas(schema: dict[str, Any]) -> Iterator[Any]:
    for name in _NAMED:
        if _is_dict(schema, name):
            yield from schema[name].values()
    for name in _LISTED:
        if _is_list(schema, name):
            yield from schema[name]
    for name in _SINGLE:
        yield schema.get(name)


def _is_dict(schema: dict[str, Any], name: str) -> bool:
    return isinstance(schema.get(name), dict)


def _is_list(schema: dict[str, Any], name: str) -> bool:
    return isinstance(schema.get(name), list)


def _invalid(problem: str, param: str) -> NoReturn:
    raise RequestError(f"{param}: {problem}", param=param, code="invalid_schema")


def _too_complex(problem: str, param: str) -> NoReturn:
    raise RequestError(f"{param}: {problem}", param=param, code="schema_too_complex")
