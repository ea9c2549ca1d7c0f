"""The bodies that the routes take: every field named, typed and strict."""

from typing import Annotated, Any, Self

import pydantic
from pydantic import BeforeValidator, WithJsonSchema, model_validator

from runtime.errors import RequestError, UnsupportedParameter
from runtime.request import MAX_LOGPROBS, SamplingParams
from server.answer_form import ResponseFormat, StructuredFields
from server.body import Body, Ids, Prompt, Strings
from server.chat_messages import MESSAGES, parse_messages
from server.limits import MAX_CACHE_SALT, MAX_PRIORITY
from server.request_id import CLEAN
from server.tools import Tool, ToolChoice, check_tools
from server.unsupported import refuse_unsupported

# pydantic's error type: our code; the rest is "invalid_type" or "invalid_value"
CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}

SAMPLING_FIELDS = (
    "n temperature top_p top_k min_p seed repetition_penalty presence_penalty frequency_penalty "
    "logit_bias max_tokens min_tokens stop stop_token_ids ignore_eos include_stop_str_in_output "
    "skip_special_tokens prompt_logprobs"
).split()


def _token_ids_to_biases(value: Any) -> Any:
    """{"17": -1.5} to {17: -1.5}: JSON has no other keys than strings."""
    if not isinstance(value, dict):
        return value
    biases: dict[int, float] = {}
    for key, bias in value.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise RequestError(f"{key[:20]!r} is no token id", param="logit_bias")
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise RequestError(
                f"the bias of token {key} must be a number",
                param=f"logit_bias.{key}",
                code="invalid_type",
            )
        biases[int(key)] = bias
    return biases


class StreamOptions(Body):
    """Which usage figures a stream carries."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationBody(Body):
    """What completions and chats share; None everywhere means "as if it were not there"."""

    model: str | None = None
    n: int | None = None
    best_of: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[int, float] | None, BeforeValidator(_token_ids_to_biases)] = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: str | Strings | None = None
    stop_token_ids: Ids | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredFields | None = None
    return_token_ids: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: str | None = None
    priority: int | None = None
    request_id: str | None = None
    user: str | None = None  # taken and not used, as elsewhere
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream: true", param="stream_options")
        if self.cache_salt is not None and not 0 < len(self.cache_salt) <= MAX_CACHE_SALT:
            raise RequestError(
                f"cache_salt needs 1 to {MAX_CACHE_SALT} characters", param="cache_salt"
            )
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise UnsupportedParameter("best_of is not supported, unless it is n", param="best_of")
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError(
                "prompt_logprobs do not come in a stream; leave stream out",
                param="prompt_logprobs",
            )
        if self.priority is not None and abs(self.priority) > MAX_PRIORITY:
            raise RequestError(
                f"priority must lie in [{-MAX_PRIORITY}, {MAX_PRIORITY}]", param="priority"
            )
        if self.request_id is not None and not CLEAN.fullmatch(self.request_id):
            raise RequestError(
                "request_id has 1 to 64 of the characters a-z, A-Z, 0-9, _ and -",
                param="request_id",
            )
        return self

    @property
    def stream_form(self) -> StreamOptions | None:
        """None where the response comes at once."""
        return (self.stream_options or StreamOptions()) if self.stream else None

    def sampling_params(self, **others: Any) -> SamplingParams:
        """The engine's form of these fields; `others` have their names there.

        Raises:
            RequestError: a value is out of its range.
        """
        given = {name: getattr(self, name) for name in SAMPLING_FIELDS}
        given = {name: value for name, value in given.items() if value is not None}
        return SamplingParams(**given | others)


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Prompt
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None
    add_special_tokens: bool | None = None

    @model_validator(mode="after")
    def _fits_together_in_completions(self) -> Self:
        if self.suffix and self.echo:
            raise RequestError("echo and suffix exclude each other", param="suffix")
        return self

    @property
    def prompt_only(self) -> bool:
        """Whether the prompt is to be echoed, perhaps scored, and nothing generated."""
        return bool(self.echo) and self.max_tokens == 0


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[
        list[dict[str, Any]], BeforeValidator(parse_messages), WithJsonSchema(MESSAGES)
    ]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: "TemplateOptions | None" = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _fits_together_in_chats(self) -> Self:
        if self.top_logprobs is not None:
            if not self.logprobs:
                raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
            if not 0 <= self.top_logprobs <= MAX_LOGPROBS:
                raise RequestError(
                    f"top_logprobs must lie in [0, {MAX_LOGPROBS}], got {self.top_logprobs}",
                    param="top_logprobs",
                )
        if None not in (self.max_tokens, self.max_completion_tokens):
            if self.max_tokens != self.max_completion_tokens:
                raise RequestError(
                    "max_tokens and max_completion_tokens differ; give one of them",
                    param="max_tokens",
                )
        _check_final_message(self.add_generation_prompt, self.continue_final_message)
        check_tools(self.tools, self.tool_choice)
        return self


class TemplateOptions(Body):
    """The template's variables that a client may set."""

    enable_thinking: bool | None = None


class TokenizeBody(Body):
    """POST /tokenize: a raw prompt or a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[
        list[dict[str, Any]] | None, BeforeValidator(parse_messages), WithJsonSchema(MESSAGES)
    ] = None
    add_special_tokens: bool | None = None
    parse_special: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateOptions | None = None

    @model_validator(mode="after")
    def _has_one_text(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("give either prompt or messages", param="prompt")
        _check_final_message(self.add_generation_prompt, self.continue_final_message)
        return self


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: Ids


def parse[Parsed: Body](kind: type[Parsed], body: dict[str, Any]) -> Parsed:
    """The body as `kind`.

    Raises:
        UnsupportedParameter: a field that exists elsewhere and does nothing here.
        RequestError: a field is unknown, or its value has another type or is out of range.
    """
    known = kind.model_fields
    body = refuse_unsupported(body, known)
    for name in body:  # before pydantic, which would make an error of each of a million
        if name not in known:
            raise RequestError(
                f"unknown field {name[:64]!r}", param=name[:64], code="unknown_parameter"
            )
    try:
        return kind.model_validate(body)
    except pydantic.ValidationError as error:
        raise _request_error(error, body) from None


def _request_error(error: pydantic.ValidationError, body: dict[str, Any]) -> RequestError:
    first = error.errors(include_url=False, include_input=False)[0]
    ours = first.get("ctx", {}).get("error")
    if isinstance(ours, RequestError):
        return ours
    param = _path(first["loc"], body)
    kind = first["type"]
    code = CODES.get(kind, "invalid_type" if kind.endswith("_type") else "invalid_value")
    return RequestError(f"{param}: {first['msg']}", param=param, code=code)


def _path(location: tuple[int | str, ...], value: Any) -> str:
    """The dotted path of a field; pydantic mixes names of union members into it."""
    parts = []
    for part in location:
        if isinstance(value, dict) and isinstance(part, str) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif part != location[-1] or not isinstance(value, dict):
            continue
        parts.append(str(part))
    return ".".join(parts) or str(location[0])


def _check_final_message(add_generation_prompt: bool | None, continue_final: bool | None) -> None:
    if add_generation_prompt and continue_final:
        raise RequestError(
            "add_generation_prompt and continue_final_message exclude each other",
            param="continue_final_message",
        )
