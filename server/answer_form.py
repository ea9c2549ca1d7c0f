"""The fields that give an answer its form: `response_format` and `structured_outputs`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from runtime.errors import RequestError
from runtime.structured_outputs import StructuredOutputs
from server.body import Body, Strings

SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
STRUCTURED = "structured_outputs"


@dataclass(frozen=True)
class AnswerForm:
    """The form that an answer must have, and the field that asks for it."""

    wanted: StructuredOutputs
    param: str


class JsonSchema(Body):
    """`response_format.json_schema`. `strict` or not, the schema is kept to."""

    name: str
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's `response_format`; `schema` is llama-server's place for one."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


def _no_false(value: Any) -> Any:
    """vLLM's clients write `json_object: false` beside what they want."""
    return None if value is False else value


class StructuredFields(Body):
    """vLLM's `structured_outputs`: one of these."""

    json_: str | dict[str, Any] | None = Field(None, alias="json")
    regex: str | None = None
    choice: Strings | None = None
    grammar: str | None = None
    json_object: Annotated[bool | None, BeforeValidator(_no_false)] = None


def answer_form(
    response_format: ResponseFormat | None, structured: StructuredFields | None
) -> AnswerForm | None:
    """The form that one of the two fields asks for; None where neither does.

    Raises:
        RequestError: both ask for one, or what they ask for is incomplete or beyond a limit.
    """
    form = None if response_format is None else _of_response_format(response_format)
    if structured is None:
        return form
    if form is not None:
        raise RequestError(
            "response_format and structured_outputs exclude each other", param=STRUCTURED
        )
    fields = structured.model_dump(by_alias=True, exclude_none=True)
    param = STRUCTURED if len(fields) != 1 else f"{STRUCTURED}.{next(iter(fields))}"
    return _form(param, lambda: StructuredOutputs(**fields))


def _of_response_format(wanted: ResponseFormat) -> AnswerForm | None:
    where = "response_format"
    if wanted.type == "text":
        return None
    schema = wanted.schema_
    if wanted.type == "json_schema":
        if wanted.json_schema is not None:
            where += ".json_schema"
            if not SCHEMA_NAME.fullmatch(wanted.json_schema.name):
                raise RequestError(
                    "the name of a schema has 1 to 64 of the characters a-z, A-Z, 0-9, _ and -",
                    param=f"{where}.name",
                )
            schema = wanted.json_schema.schema_
        if schema is None:
            raise RequestError(
                "response_format of type json_schema needs a schema",
                param="response_format.json_schema",
                code="missing_required_parameter",
            )
    if schema is None:
        return AnswerForm(StructuredOutputs(json_object=True), where)
    return _form(f"{where}.schema", lambda: StructuredOutputs(json=schema))


def _form(param: str, make: Callable[[], StructuredOutputs]) -> AnswerForm:
    """The form, with what is wrong with it said of the client's own field."""
    try:
        return AnswerForm(make(), param)
    except RequestError as error:
        named = str(error).replace(error.param or param, param, 1)
        raise RequestError(named, param=param, code=error.code) from None
