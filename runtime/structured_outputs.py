"""What an answer must look like: a schema, a pattern, one of some texts, or a grammar."""

from dataclasses import dataclass
from typing import Any

from runtime.errors import RequestError


@dataclass(frozen=True)
class StructuredOutputs:
    """The form of an answer; vLLM's names, exactly one of them given.

    Raises:
        RequestError: none is given, or several.
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
                param="structured_outputs",
            )
