"""The document of all routes: bodies made of the models that check them, answers, errors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aiohttp.typedefs import Handler
from pydantic.json_schema import models_json_schema

from server.body import Body

REF = "#/components/schemas/{model}"
JSON = "application/json"
HTML = "text/html"
EVENTS = "text/event-stream"
TEXT = "text/plain"
PATH_PATTERN = ":.+}"  # aiohttp's, at the end of a path
# status: what it means here; each has the same body
ERRORS = MappingProxyType(
    {
        400: "the request asks for what cannot be given; `param` names the field",
        401: "a valid API key is needed",
        403: "the Host is not one of this server's",
        404: "there is no such model or route",
        405: "the route has no such method",
        408: "the body did not arrive in time",
        409: "it runs already, or does not",
        413: "the body is too large",
        415: "the body must be JSON",
        429: "too many requests; Retry-After says when to try again",
        500: "the server failed",
        503: "loading or shutting down; Retry-After says when to try again",
        504: "the answer took too long",
    }
)
# what OpenAPI says of a stream is said of each event
AN_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
STRING_OR_NULL: dict[str, Any] = {"type": ["string", "null"]}


@dataclass(frozen=True)
class Operation:
    """What a route takes and gives.

    Attributes:
        answer: name of a schema in `ANSWERS`; None for an answer that is no JSON object.
        media: content types of the answer.
    """

    body: type[Body] | None = None
    answer: str | None = None
    media: tuple[str, ...] = (JSON,)


def record(**fields: str | dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with these fields; more may come with time."""
    properties = {
        name: {"type": field} if isinstance(field, str) else field for name, field in fields.items()
    }
    return {"type": "object", "properties": properties, "required": list(fields)}


def array_of(items: dict[str, Any]) -> dict[str, Any]:
    """The schema of a list."""
    return {"type": "array", "items": items}


INTEGERS = array_of({"type": "integer"})
MODEL = record(id="string", object="string", created="integer", max_model_len="integer")
USAGE = record(prompt_tokens="integer", total_tokens="integer")
CALL = {"id": "string", "object": "string", "created": "integer", "model": "string"}
RENDERED = record(prompt="string", token_ids=INTEGERS, max_model_len="integer")
ANSWERS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "Error": record(
            error=record(message="string", type="string", param=STRING_OR_NULL, code=STRING_OR_NULL)
        ),
        "Version": record(version="string"),
        "Load": record(server_load="integer"),
        "Props": record(
            default_generation_settings=record(n_ctx="integer"),
            total_slots="integer",
            model_alias="string",
            chat_template="string",
            build_info="string",
        ),
        "Model": MODEL,
        "Models": record(object="string", data=array_of(MODEL)),
        "Completion": record(
            **CALL,
            choices=array_of(record(index="integer", text="string", finish_reason=STRING_OR_NULL)),
            usage=USAGE,
        ),
        "ChatCompletion": record(
            **CALL,
            choices=array_of(
                record(
                    index="integer",
                    message=record(role="string", content=STRING_OR_NULL),
                    finish_reason=STRING_OR_NULL,
                )
            ),
            usage=USAGE,
        ),
        # response_fields may leave any of them out
        "Infill": record(content="string", stop="boolean") | {"required": []},
        "Embeddings": record(
            object="string",
            model="string",
            usage=USAGE,
            data=array_of(
                record(
                    object="string",
                    index="integer",
                    embedding={"oneOf": [array_of({"type": "number"}), {"type": "string"}]},
                )
            ),
        ),
        "Tokens": record(tokens={"type": "array"}),
        "Text": record(prompt="string", content="string"),
        "Prompt": record(prompt="string"),
        "Rendered": RENDERED,
        "RenderedList": array_of(RENDERED),
        "Profile": record(status="string", profile_dir="string"),
    }
)


def make_spec(
    routes: Iterable[tuple[str, str, Handler]],
    operations: Mapping[Handler, Operation],
    open_handlers: Iterable[Handler],
    *,
    version: str,
) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a table of routes, each of which `operations` describes."""
    bodies = sorted({op.body for op in operations.values() if op.body}, key=lambda b: b.__name__)
    _, schemas = models_json_schema([(body, "validation") for body in bodies], ref_template=REF)
    paths: dict[str, Any] = {}
    for method, path, handler in routes:
        path = path.replace(PATH_PATTERN, "}")
        paths.setdefault(path, {})[method.lower()] = _operation(
            f"{method.lower()}{path}", path, handler, operations[handler], handler in open_handlers
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ggjax",
            "version": version,
            "description": "GGUF models over OpenAI's API, and some routes of vLLM and "
            "llama-server.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}) | dict(ANSWERS),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(
    name: str, path: str, handler: Handler, operation: Operation, is_open: bool
) -> dict[str, Any]:
    text = " ".join((handler.__doc__ or "").split())
    schema = {"$ref": REF.format(model=operation.answer)} if operation.answer else {}
    content = {
        media: {"schema": {JSON: schema, EVENTS: AN_EVENT}.get(media, {"type": "string"})}
        for media in operation.media
    }
    error = {JSON: {"schema": {"$ref": REF.format(model="Error")}}}
    errors = {
        str(status): {"description": text, "content": error} for status, text in ERRORS.items()
    }
    found: dict[str, Any] = {
        "operationId": name,
        "summary": text.partition(". ")[0].rstrip("."),
        "description": text,
        "security": [] if is_open else [{"key": []}],
        "responses": {"200": {"description": "done", "content": content}, **errors},
    }
    if not content:
        del found["responses"]["200"]["content"]
    if operation.body is not None:
        body = {"schema": {"$ref": REF.format(model=operation.body.__name__)}}
        found["requestBody"] = {"required": True, "content": {JSON: body}}
    if "{" in path:
        parameter = path[path.index("{") + 1 : path.index("}")]
        found["parameters"] = [
            {"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return found
