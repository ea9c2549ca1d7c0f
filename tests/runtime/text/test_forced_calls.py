"""Whatever is chosen under the form of forced calls is calls of the tools, by their schemas."""

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest

from models import demo
from models.gguf_file import open_gguf
from runtime.errors import RequestError
from runtime.guidance import GuideMaker
from runtime.structured_outputs import StructuredOutputs
from runtime.text.forced_calls import MAX_CALLS, forced_calls
from runtime.text.tokenizer import Tokenizer, build_tokenizer
from runtime.text.tool_calls import CallArguments, CallStart, ToolCallParser

CITY = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
        "$defs": {"city": {"enum": ["Köln", 'Paris "x"']}},
    },
}
CLOCK = {"name": "clock.now-2", "description": "The time.", "parameters": None, "strict": None}
FLAG = {"name": "flag", "parameters": {"properties": {"on": {"type": "boolean"}}}, "strict": True}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(open_gguf(demo.PATH).metadata)


@pytest.fixture(scope="module")
def maker(tokenizer: Tokenizer) -> GuideMaker:
    return GuideMaker(lambda: tokenizer)


def answer(wanted: StructuredOutputs, maker: GuideMaker, tokenizer: Tokenizer, seed: int) -> str:
    """What a model that knows nothing writes, closing what it can after a while."""
    draw = random.Random(seed)
    guide, written = maker.make(wanted), []
    mask = np.zeros(-(-tokenizer.vocab_size // 32), np.int32)
    for step in range(3000):
        guide.fill(mask)
        ids = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
        ends = [i for i in ids if tokenizer.token_bytes(i)[:1] in (b'"', b"}", b"]")]
        written.append(draw.choice(ends if ends and draw.random() < step / 20 else ids))
        guide.accept(written[-1])
        if guide.is_finished:
            break
    assert guide.is_finished and guide.error is None
    return tokenizer.decode(i for i in written if i not in tokenizer.stop_ids)


def calls_in(text: str, names: list[str]) -> list[tuple[str, Any]]:
    parser = ToolCallParser(names)
    found: list[list[str]] = []
    for event in [*parser.feed(text), *parser.finish()]:
        if isinstance(event, CallStart):
            found.append([event.name, ""])
        elif isinstance(event, CallArguments):
            found[event.index][1] += event.text
    return [(name, json.loads(arguments)) for name, arguments in found]


def test_answers_are_calls_of_the_tools_by_their_schemas(
    maker: GuideMaker, tokenizer: Tokenizer
) -> None:
    tools = [CITY, CLOCK, FLAG]
    schemas = {tool["name"]: tool["parameters"] or {} for tool in tools}
    counts = []
    for seed in range(12):
        text = answer(forced_calls(tools, several=True), maker, tokenizer, seed)
        calls = calls_in(text, list(schemas))
        counts.append(len(calls))
        for name, arguments in calls:
            assert isinstance(arguments, dict)
            jsonschema.validate(arguments, schemas[name])
    assert 1 < max(counts) <= MAX_CALLS
    assert min(counts) >= 1


def test_one_call_is_one_call(maker: GuideMaker, tokenizer: Tokenizer) -> None:
    for seed in range(4):
        text = answer(forced_calls([CITY], several=False), maker, tokenizer, seed)
        ((name, arguments),) = calls_in(text, ["get_weather"])
        assert name == "get_weather"
        assert arguments["city"] in ("Köln", 'Paris "x"')


def test_what_cannot_be_enforced_is_refused_only_where_it_is_promised(maker: GuideMaker) -> None:
    function = {"name": "f", "parameters": {"type": "object", "not": {"required": ["a"]}}}
    maker.prepare(forced_calls([function], several=False))
    with pytest.raises(RequestError, match="Unimplemented"):
        maker.prepare(forced_calls([function | {"strict": True}], several=False))


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ([1], "invalid_schema"),
        ({"$ref": "http://127.0.0.1/"}, "invalid_schema"),
        ({"type": "string"}, "invalid_schema"),
        ({"properties": {"a": {"maxLength": 10**6}}}, "schema_too_complex"),
    ],
)
def test_schemas_of_tools_have_the_limits_of_schemas(parameters: Any, code: str) -> None:
    with pytest.raises(RequestError) as refused:
        forced_calls([CLOCK, {"name": "f", "parameters": parameters}], several=True)
    assert (refused.value.param, refused.value.code) == ("tools.f.parameters", code)


def test_all_tools_together_have_a_limit() -> None:
    long = {"name": "f", "parameters": {"description": "x" * 50_000}}
    with pytest.raises(RequestError, match=r"^tools: it has 3\d\d,\d\d\d bytes") as refused:
        forced_calls([long] * 6, several=False)
    assert refused.value.param == "tools"
