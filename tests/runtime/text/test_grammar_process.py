"""Grammars that cannot be served are refused in time, in words, and the checker goes on."""

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.errors import RequestError
from runtime.structured_outputs import StructuredOutputs
from runtime.text import grammar_process
from runtime.text.grammar_process import GrammarChecker
from runtime.text.worker_process import WorkerClosed

# every pair of these patterns is a product of their states
BOMB = "start: A\nA: " + " & ".join(f"/(.*a.{{{i}}}b.*)/" for i in range(10, 200))
FINE = StructuredOutputs(json={"type": "object", "properties": {"a": {"type": "integer"}}})


@pytest.fixture(scope="module")
def checker() -> Iterator[GrammarChecker]:
    with GrammarChecker() as checker:
        yield checker


@pytest.mark.parametrize(
    "fields",
    [
        {"json": {"type": "string", "pattern": "^a+$"}},
        {"json_object": True},
        {"regex": r"\d{3}-[a-z]+"},
        {"choice": ["yes", "no", 'x"y\n\x01\\ é 😀 {1} | (']},
        {"grammar": 'start: "a" B+\nB: /[0-9]/'},
        {"grammar": 'root ::= "yes" | "no" other\nother ::= [a-z]+'},
    ],
)
def test_every_form_is_accepted(checker: GrammarChecker, fields: dict[str, Any]) -> None:
    checker.check(StructuredOutputs(**fields))


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"json": {"not": {}}}, "invalid_schema", 'Unimplemented keys: ["not"]'),
        ({"json": {"type": "strange"}}, "invalid_schema", "Invalid type"),
        ({"json": {"$ref": "#"}}, "invalid_schema", "nothing can match it"),
        ({"json": {"$ref": "#/$defs/a"}}, "invalid_schema", "does not exist"),
        ({"json": {"pattern": "(?=a)", "type": "string"}}, "invalid_schema", "look-around"),
        ({"json": {"x-guidance": {"lenient": True}, "not": {}}}, "invalid_schema", "not"),
        ({"regex": "(a"}, "invalid_schema", "unclosed group"),
        ({"regex": "a{1000}{1000}"}, "schema_too_complex", "structured_outputs.regex"),
        ({"grammar": 'start: "a'}, "invalid_schema", "lexer error"),
        ({"grammar": "start: a\na: a"}, "invalid_schema", "nothing can match it"),
        ({"grammar": "start: " + "(" * 9999}, "schema_too_complex", "too deeply nested"),
        ({"grammar": "root ::= other"}, "invalid_schema", "not found"),
        ({"grammar": "root ::= " + "(" * 9999}, "invalid_schema", "recursion"),
        ({"grammar": "start: <|im_end|>"}, "invalid_schema", "unknown special token"),
    ],
)
def test_what_cannot_be_served_is_refused_in_words(
    checker: GrammarChecker, fields: dict[str, Any], code: str, words: str
) -> None:
    with pytest.raises(RequestError) as refused:
        checker.check(StructuredOutputs(**fields))
    (name,) = fields
    assert words in str(refused.value)
    assert (refused.value.param, refused.value.code) == (f"structured_outputs.{name}", code)


def test_the_field_is_the_callers(checker: GrammarChecker) -> None:
    with pytest.raises(RequestError, match="^response_format: Unimplemented") as refused:
        checker.check(StructuredOutputs(json={"not": {}}), param="response_format")
    assert refused.value.param == "response_format"


def test_a_bomb_ends_in_time_and_the_checker_goes_on() -> None:
    with GrammarChecker(deadline=0.3) as checker:
        with pytest.raises(RequestError, match=r"longer than 0\.3 s") as refused:
            checker.check(StructuredOutputs(grammar=BOMB))
        assert refused.value.code == "schema_too_complex"
        checker.check(FINE)


def test_a_bomb_is_stopped_by_its_memory() -> None:
    with (
        GrammarChecker(deadline=60.0) as checker,
        pytest.raises(RequestError, match="memory") as refused,
    ):
        checker.check(StructuredOutputs(grammar=BOMB))
    assert refused.value.code == "schema_too_complex"


def test_a_worker_that_dies_between_grammars_costs_nobody_anything() -> None:
    with GrammarChecker() as checker:
        checker.check(StructuredOutputs(json_object=True))
        child = checker._worker._child
        assert child is not None
        os.kill(child.process.pid, signal.SIGKILL)
        checker.check(FINE)


def test_what_was_accepted_is_remembered_and_the_oldest_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grammar_process, "MAX_REMEMBERED", 1)
    with GrammarChecker() as checker:
        checker.check(FINE)
    checker.check(FINE)  # closed, but known
    with GrammarChecker() as checker:
        checker.check(FINE)
        checker.check(StructuredOutputs(json_object=True))
    with pytest.raises(WorkerClosed):
        checker.check(FINE)


async def test_the_event_loop_stays_free_while_a_bomb_burns() -> None:
    with GrammarChecker(deadline=0.3) as checker:
        bomb = asyncio.create_task(checker.check_async(StructuredOutputs(grammar=BOMB)))
        turns = 0
        while not bomb.done():
            await asyncio.sleep(0.005)
            turns += 1
        assert turns > 2  # a blocked loop would have had one, at the end
        with pytest.raises(RequestError):
            await bomb
