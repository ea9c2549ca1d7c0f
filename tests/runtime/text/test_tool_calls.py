"""Tool calls are found in every form the models use, however the text is cut; text stays text."""

import json
import random
import sys
from collections.abc import Iterable
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.text.tool_calls import (
    CallArguments,
    CallEnd,
    CallStart,
    ContentPart,
    ToolCallParser,
    ToolEvent,
)

TOOLS = ("get_weather", "f")
ARGUMENTS = '{"city": "Köln \\"}{", "days": [1, {"x": null}]}'
CALL = f'{{"name": "get_weather", "arguments": {ARGUMENTS}}}'
OTHER = '{"name": "f", "arguments": {}}'
FOUND = ("get_weather", ARGUMENTS)
FOUND_OTHER = ("f", "{}")


def pieces(text: str, size: int) -> Iterable[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


def events(parts: Iterable[str]) -> list[ToolEvent]:
    parser = ToolCallParser(TOOLS)
    return [event for part in parts for event in parser.feed(part)] + parser.finish()


def joined(found: list[ToolEvent]) -> tuple[str, list[tuple[str, str]]]:
    """All content, and each call's name and arguments; the order of events is checked."""
    content, calls, is_open = "", [], False
    for event in found:
        match event:
            case ContentPart(text):
                assert text and not is_open
                content += text
            case CallStart(index, name):
                assert index == len(calls) and not is_open
                calls.append((name, ""))
                is_open = True
            case CallArguments(index, text):
                assert text and index == len(calls) - 1 and is_open
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
            case CallEnd(index):
                assert index == len(calls) - 1 and is_open
                is_open = False
    assert not is_open
    return content, calls


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (f"<tool_call>\n{CALL}\n</tool_call>", "", [FOUND]),
        (
            f"<tool_call>{CALL}</tool_call>\n<tool_call>{OTHER}</tool_call>",
            "",
            [FOUND, FOUND_OTHER],
        ),
        (f"I look.\n<tool_call>\n{CALL}\n</tool_call>\nSo.", "I look.So.", [FOUND]),
        (f"<tool_call>\n{CALL}\n{OTHER}\n</tool_call>", "", [FOUND, FOUND_OTHER]),
        (f"<tool_call>\n{CALL}\n<tool_call>\n{OTHER}", "", [FOUND, FOUND_OTHER]),  # never closed
        (f"<tools>\n{CALL}\n{OTHER}\n</tools>", "", [FOUND, FOUND_OTHER]),
        (f"<tools>[{CALL}, {OTHER}]</tools>", "", [FOUND, FOUND_OTHER]),
        (f"```json\n{CALL}\n```", "", [FOUND]),
        (f"Well:\n```json\n[\n{CALL},\n{OTHER}\n]\n```\nok", "Well:ok", [FOUND, FOUND_OTHER]),
        (f"```\n{CALL}\n```", "", [FOUND]),
        (CALL, "", [FOUND]),
        (f"{CALL}\n{OTHER}\nBye.\n", "Bye.\n", [FOUND, FOUND_OTHER]),
        (f"Text\n  {CALL}", "Text", [FOUND]),
        (f"[{CALL}, {OTHER}]", "", [FOUND, FOUND_OTHER]),
        ('{"name": "f", "parameters": {"a": 1}}', "", [("f", '{"a": 1}')]),
        ('{"arguments": {"a": "é"}, "name": "f"}', "", [("f", '{"a": "é"}')]),
        (
            '{"type": "function", "id": 3, "name": "f", "arguments": {}, "x": [1]}',
            "",
            [FOUND_OTHER],
        ),
        ('{"name": "f"}', "", [FOUND_OTHER]),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', "", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1', "", [("f", '{"a": 1')]),  # cut off
        ('{"name": "f", "arguments": {}}, then', ", then", [FOUND_OTHER]),
        ('{"name": "f", "arguments": {} then', "then", [FOUND_OTHER]),
    ],
)
def test_every_form_of_a_call_is_found(
    text: str, content: str, calls: list[tuple[str, str]], size: int
) -> None:
    assert joined(events(pieces(text, size))) == (content, calls)


@pytest.mark.parametrize("size", [1, 4, 10_000])
@pytest.mark.parametrize(
    "text",
    [
        "Nothing here.  \n",
        "  \n",
        "a < b, `code`, [1], {x}\n{\n[\n```python\nx = {}\n```\n<tool",
        '{"name": "Ann", "age": 3}',
        '{"title": "no call", "name": "f", "arguments": {}}',
        '{"name": "unknown", "arguments": {}}',
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "argu',
        '<tool_call>{"name": ["f"], "arguments": {}}</tool_call>',
        '<tool_call>{"name": f, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": 3}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "3"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "{"}</tool_call>',
        '<tool_call>{"na\\qme": "f"}</tool_call>',
        '<tool_call>{"name": "f", "id": 1.2.3}</tool_call>',
        '<tool_call>{"name": "f" "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "id": ' + "[" * 9999 + "]" * 9999 + "}</tool_call>",
        '<tool_call>{"' + "a" * 300 + '": 1}</tool_call>',
        "<tool_call>[1]</tool_call>",
        "<tools>none</tools>",
        f"say {CALL}",  # not at the beginning of a line
    ],
)
def test_what_is_no_call_stays_text(text: str, size: int) -> None:
    assert joined(events(pieces(text, size))) == (text, [])


def test_arguments_come_as_they_are_written() -> None:
    parser = ToolCallParser(TOOLS)
    assert parser.feed('<tool_call>{"name": "f", "arg') == []
    assert parser.feed('uments": {"a"') == [CallStart(0, "f"), CallArguments(0, '{"a"')]
    assert parser.feed(": 1}") == [CallArguments(0, ": 1}"), CallEnd(0)]
    assert parser.feed("}</tool_call>") == parser.finish() == []


def test_json_that_is_an_answer_streams_on() -> None:
    parser = ToolCallParser(TOOLS)
    assert parser.feed('{"title":') == [ContentPart('{"title":')]


FRAGMENTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<tools>", "</tools>", "```json", "```", "<", "`"),
        *(CALL, OTHER, '{"name": "f", ', '"arguments": ', '{"a": 1}', "{", "}", "[", "]", ","),
        *("\n", " ", '"', "\\", "text", "é", ":", '"name"', "1"),
    ]
)


@given(st.lists(FRAGMENTS, max_size=25), st.randoms(use_true_random=False))
def test_the_cuts_of_the_text_change_nothing(parts: list[str], draw: random.Random) -> None:
    text = "".join(parts)
    cuts = sorted(draw.randrange(len(text) + 1) for _ in range(draw.randrange(20)))
    cut = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = joined(events([text]))
    assert joined(events(cut)) == found == joined(events(text))
    for _, arguments in found[1]:
        assert arguments.startswith("{")


@given(st.text(alphabet="<tolcas_>`{}[]\"':, \nnamef\\"), st.integers(1, 5))
def test_without_tools_nothing_is_lost(text: str, size: int) -> None:
    parser = ToolCallParser(())
    found = [event for piece in pieces(text, size) for event in parser.feed(piece)]
    assert joined(found + parser.finish()) == (text, [])


@pytest.mark.parametrize(
    "unit",
    [
        "{",
        "[",
        "<",
        "`",
        "\n{",
        '\n{"name": ',
        '<tool_call>{"id":',
        "```json\n[",
        '{"id":[',
        " ",
        CALL,
    ]
    + [f"<tool_call>{OTHER},", '"', "\\", '{"arguments":{"'],
)
def test_the_work_is_linear_in_the_text(unit: str) -> None:
    def work(count: int) -> int:
        calls = 0

        def count_call(frame: FrameType, event: str, argument: object) -> None:
            nonlocal calls
            calls += 1

        text = unit * (count // len(unit))
        sys.setprofile(count_call)
        try:
            events(text)
        finally:
            sys.setprofile(None)
        return calls

    assert work(8000) < 2.5 * work(4000)


def test_the_arguments_of_a_whole_call_are_json() -> None:
    _, ((_, arguments),) = joined(events([CALL]))
    assert json.loads(arguments)["city"] == 'Köln "}{'
