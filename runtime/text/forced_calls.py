"""The form of an answer that has to call tools, as Qwen2.5 was taught to write calls."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import RequestError
from runtime.guided_schema import guided_schema
from runtime.schema_limits import check_length, check_schema
from runtime.structured_outputs import MAX_GRAMMAR_BYTES, StructuredOutputs

MAX_CALLS = 16  # a small model may not find an end by itself


def forced_calls(functions: Sequence[Mapping[str, Any]], *, several: bool) -> StructuredOutputs:
    """Calls of these functions, and nothing else; `runtime.text.tool_calls` reads them.

    Args:
        functions: OpenAI's `tools[].function`, at least one: `name` (letters, digits, "_", "."
            and "-"), `parameters` (a JSON schema; any object where it is missing or None) and
            `strict`: whether keywords that cannot be enforced are refused (else they are ignored).
        several: there may be up to `MAX_CALLS` calls, of any of the functions; else one.

    Raises:
        RequestError: a schema is none or exceeds a limit; `param` is "tools.NAME.parameters",
            or "tools" where all together are too long.
    """
    assert functions
    rules = [f'start: call ("\\n" call){{0,{MAX_CALLS - 1}}}' if several else "start: call"]
    choices = " | ".join(f"call_{number}" for number in range(len(functions)))
    rules.append(f'call: "<tool_call>\\n" ({choices}) "\\n</tool_call>"')
    for number, function in enumerate(functions):
        begin = json.dumps(f'{{"name": "{function["name"]}", "arguments": ')
        # each schema is a document of its own, so that "#/$defs/…" in it means what it says
        rules.append(f'call_{number}: {begin} arguments_{number} "}}"')
        rules.append(f"arguments_{number}: %json {_arguments(function)}")
    grammar = "\n".join(rules)
    check_length(grammar, MAX_GRAMMAR_BYTES, param="tools")
    return StructuredOutputs(grammar=grammar)


def _arguments(function: Mapping[str, Any]) -> str:
    """The schema of a function's arguments, as a line of JSON."""
    schema = function.get("parameters") or {}
    param = f"tools.{function['name']}.parameters"
    check_schema(schema, param=param)
    if schema.get("type", "object") != "object":
        raise RequestError(
            f"{param}: arguments are an object, got type {schema['type']!r}",
            param=param,
            code="invalid_schema",
        )
    schema = {"type": "object", **schema}
    return json.dumps(guided_schema(schema, lenient=not function.get("strict")))
