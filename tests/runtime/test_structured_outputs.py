"""Forms of answers and limits on schemas: what is refused, and in which words."""

import json
from typing import Any

import msgspec
import pytest

from runtime.errors import RequestError
from runtime.schema_limits import MAX_SCHEMA_BYTES, check_schema
from runtime.structured_outputs import MAX_GRAMMAR_BYTES, StructuredOutputs


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth - 1):
        schema = {"type": "array", "items": schema}
    return schema


def properties(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {} for i in range(count)}}


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"json": {"type": "null"}}, "json"),
        ({"json": '{"type": "null"}'}, "json"),
        ({"regex": "a+"}, "regex"),
        ({"choice": ["a", "b"]}, "choice"),
        ({"grammar": 'start: "a"'}, "grammar"),
        ({"json_object": True}, "json_object"),
    ],
)
def test_exactly_one_form_is_kept_and_travels(fields: dict[str, Any], kind: str) -> None:
    wanted = StructuredOutputs(**fields)
    assert wanted.kind == kind
    message = msgspec.msgpack.encode(wanted)
    assert msgspec.msgpack.decode(message, type=StructuredOutputs) == wanted
    assert hash(wanted) == hash(StructuredOutputs(**fields))


@pytest.mark.parametrize("fields", [{}, {"choice": ()}, {"regex": "a", "json_object": True}])
def test_none_and_two_forms_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="exactly one of") as refused:
        StructuredOutputs(**fields)
    assert refused.value.param == "structured_outputs"


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    schema = {"properties": {"b": {"type": "null"}, "a": {"type": "null"}}, "type": "object"}
    kept = StructuredOutputs(json=schema).json
    assert kept == '{"properties":{"b":{"type":"null"},"a":{"type":"null"}},"type":"object"}'
    assert StructuredOutputs(json=json.dumps(schema, indent=4)).json == kept


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "must be a JSON object, got list"),
        ({"const": float("nan")}, "cannot be written as JSON"),
        ({"const": object()}, "cannot be written as JSON"),
        ({"const": "\ud800"}, "lone surrogate"),
        ({"$ref": "http://127.0.0.1/x"}, "must begin with '#'"),
        ({"items": {"$dynamicRef": "other.json"}}, "must begin with '#'"),
    ],
)
def test_what_is_no_schema_is_refused(schema: Any, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as refused:
        StructuredOutputs(json=schema)
    assert (refused.value.param, refused.value.code) == (
        "structured_outputs.json",
        "invalid_schema",
    )


@pytest.mark.parametrize(
    ("largest", "too_large"),
    [
        (nested(16), nested(17)),
        (properties(1000), properties(1001)),
        ({"enum": [1] * 1000}, {"enum": [1] * 1001}),
        ({"anyOf": [{}] * 64}, {"anyOf": [{}] * 65}),
        ({"pattern": "a" * 512}, {"pattern": "a" * 513}),
        ({"patternProperties": {"a" * 512: {}}}, {"patternProperties": {"a" * 513: {}}}),
        ({"maxLength": 100_000}, {"maxLength": 100_001}),
        ({"prefixItems": [{"minItems": 100_000}]}, {"prefixItems": [{"minItems": 100_001}]}),
        (
            {"const": "a" * (MAX_SCHEMA_BYTES - len('{"const":""}'))},
            {"const": "a" * (MAX_SCHEMA_BYTES - len('{"const":""}') + 1)},
        ),
    ],
)
def test_limits_hold_to_the_last_one(largest: dict[str, Any], too_large: dict[str, Any]) -> None:
    assert StructuredOutputs(json=largest).kind == "json"
    with pytest.raises(RequestError) as refused:
        StructuredOutputs(json=too_large)
    assert refused.value.code == "schema_too_complex"


@pytest.mark.parametrize("schema", ['{"items":' * 20_000, '{"items":' * 5000 + "{}" + "}" * 5000])
def test_bottomless_text_is_refused(schema: str) -> None:
    with pytest.raises(RequestError):
        StructuredOutputs(json=schema)


def test_the_field_at_fault_is_the_callers() -> None:
    with pytest.raises(RequestError, match=r"^response_format: maxLength is 200,000") as refused:
        check_schema({"maxLength": 200_000}, param="response_format")
    assert refused.value.param == "response_format"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"regex": "a" * 513}, "schema_too_complex"),
        ({"regex": "\ud800"}, "invalid_schema"),
        ({"grammar": "a" * (MAX_GRAMMAR_BYTES + 1)}, "schema_too_complex"),
        ({"choice": ["a"] * 1001}, "schema_too_complex"),
        ({"choice": ["a" * MAX_SCHEMA_BYTES, "b"]}, "schema_too_complex"),
        ({"choice": ["a", ""]}, "invalid_value"),
        ({"choice": [1]}, "invalid_value"),
    ],
)
def test_other_forms_have_limits_too(fields: dict[str, Any], code: str) -> None:
    with pytest.raises(RequestError) as refused:
        StructuredOutputs(**fields)
    (name,) = fields
    assert (refused.value.param, refused.value.code) == (f"structured_outputs.{name}", code)
