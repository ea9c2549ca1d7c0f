"""Which tools a chat offers, and whether its answer has to call them."""

from collections.abc import Callable

from runtime.errors import RequestError
from runtime.text.answer import never_complete
from runtime.text.forced_calls import forced_calls
from server.answer_form import AnswerForm, answer_form
from server.schema import ChatBody
from server.tool_deltas import FirstCall, ToolDeltas
from server.tools import NamedTool, Tool


def offered_tools(body: ChatBody) -> list[Tool]:
    """The tools that the model is told of: none where it must not call any."""
    return [] if body.tool_choice == "none" else body.tools or []


def chat_form(body: ChatBody) -> AnswerForm | None:
    """The form that an answer must have: what a field asks for, or calls of tools.

    Raises:
        RequestError: both are asked for, or what is asked for cannot be given.
    """
    form = answer_form(body.response_format, body.structured_outputs)
    tools = offered_tools(body)
    if not tools:
        return form
    if form is not None:
        raise RequestError(
            f"{form.param} and tools exclude each other, unless tool_choice is none",
            param=form.param,
        )
    if body.tool_choice in (None, "auto"):
        return None
    name = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    wanted = forced_calls(
        [tool.function.model_dump() for tool in tools if name in (None, tool.function.name)],
        several=name is None and body.parallel_tool_calls is not False,
    )
    return AnswerForm(wanted, "tools")


def call_finder(body: ChatBody) -> Callable[[], ToolDeltas] | None:
    """Makes what finds the calls in one answer; None where there are no tools."""
    names = [tool.function.name for tool in offered_tools(body)]
    if not names:
        return None
    one_call = body.parallel_tool_calls is False
    return lambda: ToolDeltas(names, one_call=one_call)


def end_finder(body: ChatBody) -> Callable[[], Callable[[str], bool]]:
    """Makes what says whether one answer is complete: with its first call, where that is the
    only one wanted."""
    if body.parallel_tool_calls is not False:
        return lambda: never_complete
    names = [tool.function.name for tool in offered_tools(body)]
    return lambda: FirstCall(names).feed
