"""What every body has in common: strict types and no unknown fields."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, FailFast

type Ids = Annotated[list[int], FailFast()]
type Strings = Annotated[list[str], FailFast()]


class Body(BaseModel):
    """What every body shares: no unknown fields, no type is turned into another."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
