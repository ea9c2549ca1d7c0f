"""What an answer must look like: a schema, a pattern, one of some texts, or a grammar."""

from dataclasses import dataclass
from typing import Any

from runtime.errors import RequestError
from runtime.schema_limits import (
    MAX_ENUM_VALUES,
    MAX_PATTERN_BYTES,
    MAX_SCHEMA_BYTES,
    check_length,
    schema_text,
)

MAX_GRAMMAR_BYTES = 256 << 10  # the grammar of many tools is long
PARAM = "structured_outputs"


@dataclass(frozen=True)
class StructuredOutputs:
    """The form of an answer; vLLM's names, exactly one of them given, checked when made.

    The checks here are of size and kind. Whether a schema, pattern or grammar can be served is
    known when it is compiled: `runtime.text.grammar_process.GrammarChecker`, or
    `runtime.guidance.GuideMaker`.

    Attributes:
        json: a JSON schema (draft 2020-12) as a dict or as text; kept as compact text.
        regex: the whole answer matches it (Rust's syntax, without look-around).
        choice: the answer is one of these texts.
        grammar: Lark as llguidance reads it (it has a rule `start:`), else GBNF.
        json_object: any JSON object.

    Raises:
        RequestError: not exactly one is given, or it exceeds a limit; `param` is
            "structured_outputs" with the field's name.
    """

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: tuple[str, ...] = ()
    grammar: str | None = None
    json_object: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "choice", tuple(self.choice or ()))
        given = [name for name, value in vars(self).items() if value not in (None, (), False)]
        if len(given) != 1:
            raise RequestError(
                "structured_outputs needs exactly one of json, regex, choice, grammar and "
                f"json_object, got {' and '.join(given) or 'none'}",
                param=PARAM,
            )
        if self.json is not None:
            object.__setattr__(self, "json", schema_text(self.json, param=f"{PARAM}.json"))
        if self.regex is not None:
            check_length(self.regex, MAX_PATTERN_BYTES, param=f"{PARAM}.regex")
        if self.grammar is not None:
            check_length(self.grammar, MAX_GRAMMAR_BYTES, param=f"{PARAM}.grammar")
        self._check_choice()

    def _check_choice(self) -> None:
        param = f"{PARAM}.choice"
        if any(not isinstance(text, str) or not text for text in self.choice):
            raise RequestError(f"{param}: each choice must be a text, not empty", param=param)
        if len(self.choice) > MAX_ENUM_VALUES:
            raise RequestError(
                f"{param}: {len(self.choice):,} choices; at most {MAX_ENUM_VALUES:,}",
                param=param,
                code="schema_too_complex",
            )
        check_length("".join(self.choice), MAX_SCHEMA_BYTES, param=param)

    @property
    def kind(self) -> str:
        """The name of the field that is given."""
        given = (name for name, value in vars(self).items() if value not in (None, (), False))
        return next(given)
