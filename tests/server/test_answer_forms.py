"""response_format and structured_outputs: what reaches the engine, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
BODY = {COMPLETIONS: {"prompt": "XY"}, CHAT: {"messages": [{"role": "user", "content": "hi"}]}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
NAMED = {"name": "thing", "schema": SCHEMA, "strict": True}


async def ask(client: Any, url: str, status: int = 200, **body: Any) -> dict[str, Any]:
    response = await client.post(url, json=BODY[url] | {"max_tokens": 1} | body)
    answer = await response.json()
    assert response.status == status, answer
    return answer


@pytest.mark.parametrize("url", [COMPLETIONS, CHAT])
async def test_forms_reach_the_engine(start_server: Any, tmp_path: Path, url: str) -> None:
    submits = tmp_path / "submits"
    client = await start_server("--submits", submits)
    given: list[tuple[dict[str, Any], tuple[str, Any] | None]] = [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, ("json_object", True)),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, ("json", SCHEMA)),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, ("json", SCHEMA)),
        ({"response_format": {"type": "json_schema", "json_schema": NAMED}}, ("json", SCHEMA)),
        ({"structured_outputs": {"json": SCHEMA}}, ("json", SCHEMA)),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, ("json", SCHEMA)),
        ({"structured_outputs": {"regex": "[ab]+"}}, ("regex", "[ab]+")),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, ("choice", ["yes", "no"])),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, ("grammar", 'start: "a"')),
        ({"structured_outputs": {"json_object": True}}, ("json_object", True)),
        ({"structured_outputs": {"regex": "a", "json_object": False}}, ("regex", "a")),
    ]
    for fields, _ in given:
        await ask(client, url, **fields)
    for line, (fields, wanted) in zip(submits.read_text().splitlines(), given, strict=True):
        found = json.loads(line)["params"]["structured_outputs"]
        if wanted is None:
            assert found is None
            continue
        name, value = wanted
        text = found.pop(name)
        assert (json.loads(text) if name == "json" else text) == value, fields
        assert not any(found.values())


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({"response_format": "json_object"}, "response_format", "invalid_type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema",
     "missing_required_parameter"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
     "response_format.json_schema", "missing_required_parameter"),
    ({"response_format": {"type": "json_schema", "json_schema": NAMED | {"name": "a b"}}},
     "response_format.json_schema.name", "invalid_value"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
     "response_format.json_schema.name", "missing_required_parameter"),
    ({"response_format": {"type": "json_schema",
                          "json_schema": NAMED | {"schema": {"type": "thing"}}}},
     "response_format.json_schema.schema", "invalid_schema"),
    ({"response_format": {"type": "json_schema",
                          "json_schema": NAMED | {"schema": {"enum": [*range(1001)]}}}},
     "response_format.json_schema.schema", "schema_too_complex"),
    ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs",
     "invalid_value"),
    ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "invalid_schema"),
    ({"structured_outputs": {"grammar": "start: b"}}, "structured_outputs.grammar",
     "invalid_schema"),
    ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag",
     "unknown_parameter"),
    ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
     "structured_outputs", "invalid_value"),
]  # fmt: skip


async def test_bad_forms(client: Any) -> None:
    for url in (COMPLETIONS, CHAT):
        for fields, param, code in BAD:
            error = (await ask(client, url, 400, **fields))["error"]
            assert (error["param"], error["code"]) == (param, code), error
