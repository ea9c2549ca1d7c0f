"""What every body has in common: strict types and no unknown fields."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, WithJsonSchema

type Ids = Annotated[list[int], FailFast()]
type Strings = Annotated[list[str], FailFast()]
IDS = {"type": "array", "items": {"type": "integer"}}
# looked at by `server.prompts`: pydantic would try each form on a prompt that is wrong in another
Prompt = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                IDS,
                {"type": "array", "items": IDS},
            ]
        }
    ),
]


class Body(BaseModel):
    """What every body shares: no unknown fields, no type is turned into another."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
