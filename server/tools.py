"""The fields that give a chat tools, and which of them the answer may or must call."""

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from runtime.errors import RequestError
from server.body import Body
from server.limits import MAX_TOOLS

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class FunctionTool(Body):
    """`tools.N.function`. `strict` or not, forced calls keep to the parameters' schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """One of `tools`."""

    type: Literal["function"]
    function: FunctionTool


class FunctionName(Body):
    """`tool_choice.function`."""

    name: str


class NamedTool(Body):
    """`tool_choice`: this function must be called."""

    type: Literal["function"]
    function: FunctionName


def _kind_of_choice(value: Any) -> str:
    return "word" if isinstance(value, str) else "named"


# told apart before they are looked at, so that an error is about the one that was meant
type ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[NamedTool, Tag("named")],
    Discriminator(_kind_of_choice),
]


def check_tools(tools: list[Tool] | None, choice: ToolChoice | None) -> None:
    """Refuses tools that cannot be told apart, and choices of what is not there.

    Raises:
        RequestError: naming the field.
    """
    tools = tools or []
    if len(tools) > MAX_TOOLS:
        raise RequestError(f"at most {MAX_TOOLS} tools, got {len(tools)}", param="tools")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        name = tool.function.name
        param = f"tools.{index}.function.name"
        if not NAME.fullmatch(name):
            raise RequestError(
                "the name of a function has 1 to 64 of the characters a-z, A-Z, 0-9, _, . and -",
                param=param,
            )
        if name in names:
            raise RequestError(f"two tools have the name {name}", param=param)
        names.add(name)
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise RequestError(
            f"tool_choice names {choice.function.name[:64]!r}, which is not among the tools",
            param="tool_choice.function.name",
        )
    if choice == "required" and not tools:
        raise RequestError("tool_choice required needs tools", param="tool_choice")
