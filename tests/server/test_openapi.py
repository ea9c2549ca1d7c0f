"""/openapi.json tells of every route, and random requests made from it get what it says."""

import asyncio
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.app import OPEN_HANDLERS, ROUTES
from server.openapi import PATH_PATTERN
from server.operations import OPERATIONS

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
ENDLESS = {"/live"}  # a stream that ends when its reader leaves
EXAMPLES = 12  # for each route


async def spec_of(client: Any) -> Any:
    return await (await client.get("/openapi.json")).json()


def test_every_route_is_described() -> None:
    assert {handler for _, _, handler in ROUTES} == set(OPERATIONS)


async def test_the_document_has_every_route_and_who_may_ask(client: Any) -> None:
    spec = await spec_of(client)
    for method, path, handler in ROUTES:
        operation = spec["paths"][path.replace(PATH_PATTERN, "}")][method.lower()]
        assert (operation["security"] == []) is (handler in OPEN_HANDLERS)
        assert operation["summary"] and operation["operationId"]
        assert ("requestBody" in operation) is (OPERATIONS[handler].body is not None)
    names = [op["operationId"] for path in spec["paths"].values() for op in path.values()]
    assert len(names) == len(set(names))


async def test_the_fields_are_those_that_are_checked(client: Any) -> None:
    schemas = (await spec_of(client))["components"]["schemas"]
    assert "temperature" in schemas["ChatBody"]["properties"]
    assert schemas["ChatBody"]["additionalProperties"] is False
    assert "input_prefix" in schemas["InfillBody"]["properties"]
    assert schemas["EmbeddingsBody"]["required"] == ["input"]
    prompt = schemas["CompletionBody"]["properties"]["prompt"]
    assert prompt["anyOf"] == schemas["EmbeddingsBody"]["properties"]["input"]["anyOf"]
    assert [form["type"] for form in prompt["anyOf"]] == ["string", "array", "array", "array"]


async def test_random_requests_are_answered_as_described(client: Any) -> None:
    await asyncio.to_thread(run_cases, await spec_of(client), str(client.make_url("/")))


def run_cases(spec: dict[str, Any], url: str) -> None:
    schema = schemathesis.openapi.from_dict(spec)
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in ENDLESS:
            continue

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            case.call_and_validate(base_url=url, checks=CHECKS, timeout=20)

        check()


async def test_the_page_of_the_routes_asks_nobody_else(client: Any) -> None:
    response = await client.get("/docs")
    text = await response.text()
    assert response.status == 200 and response.content_type == "text/html"
    assert "http://" not in text and "https://" not in text
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    for name in ("docs.js", "docs.css", "base.css"):
        assert f"page/{name}" in text
        assert (await client.get(f"/page/{name}")).status == 200


@pytest.mark.parametrize("path", ["/openapi.json", "/props", "/load"])
async def test_the_document_needs_the_key(start_server: Any, path: str) -> None:
    guarded = await start_server(api_keys=("k",))
    assert (await guarded.get(path)).status == 401
    assert (await guarded.get("/docs")).status == 200
