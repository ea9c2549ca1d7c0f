"""The demonstration model: trained weights, whose answers say something where random do not."""

import ast
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import gguf
import jsonschema
import pytest

from benchmarks.accuracy import Scorer
from benchmarks.requantize import requantize
from models import demo
from models.gguf_file import open_gguf
from runtime.errors import RequestError
from runtime.llm import LLM
from runtime.request import SamplingParams
from runtime.structured_outputs import StructuredOutputs
from runtime.text.tokenizer import build_tokenizer
from server.flags import make_parser
from server.hub import resolve_model
from tests.virtual_devices import QUICK, run_on_devices

TEXT = Path(ast.__file__).read_text()[:6000]  # Python that it was not trained to repeat
PROMPTS = [
    TEXT[:300],
    "import os\n\n\ndef read_lines(path):\n",
    "class Stack:\n    def ",
    TEXT[:1500],
]
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
OPTIONS = {"dtype": "float32", "max_model_len": 1024, "max_num_batched_tokens": 128}


def answers(llm: LLM, prompts: list[str]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in llm.generate(prompts, GREEDY)]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("demo", max_num_seqs=4, **OPTIONS) as llm:
        yield llm


@pytest.fixture(scope="module")
def expected(llm: LLM) -> list[list[int]]:
    return answers(llm, PROMPTS)


def test_it_is_what_serve_takes_without_a_model() -> None:
    assert make_parser().parse_args(["serve"]).model == demo.NAME
    assert resolve_model(demo.NAME) == demo.PATH
    assert demo.PATH.stat().st_size <= 20 * 2**20


def test_answers_are_the_same_alone_and_from_the_cache(llm: LLM, expected: list[list[int]]) -> None:
    assert [answers(llm, [prompt])[0] for prompt in PROMPTS] == expected
    (output,) = llm.generate(PROMPTS[3], GREEDY)
    assert output.num_cached_tokens >= 256
    assert output.outputs[0].token_ids == expected[3]


def test_answers_are_those_of_a_plain_forward(llm: LLM, expected: list[list[int]]) -> None:
    scorer = Scorer(demo.PATH, "float32")
    for prompt, answer in zip(PROMPTS[:3], expected, strict=False):
        ids = llm.tokenize(prompt)
        rows = scorer.log_probs(ids + answer)[len(ids) - 1 : -1]
        # float32 in another order: equal but for ties
        behind = [row.max() - row[token] for row, token in zip(rows, answer, strict=True)]
        assert max(behind) < 1e-3


def test_two_devices_answer_as_one(expected: list[list[int]]) -> None:
    code = (
        "import sys, json; from runtime.llm import LLM; from runtime.request import SamplingParams;"
        "prompts = json.load(sys.stdin);"
        f"llm = LLM('demo', max_num_seqs=2, **{OPTIONS!r});"
        "assert llm.info.tensor_parallel_size == 2;"
        "params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True);"
        "print(json.dumps([o.outputs[0].token_ids for o in llm.generate(prompts, params)]))"
    )  # fmt: skip
    # compiled quickly, and for fewer rows: nobody else has a use for these programs
    assert run_on_devices(2, code, flags=QUICK, given=json.dumps(PROMPTS)) == expected


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("import os\n\n\ndef read_lines(path):\n", "return"),
        ("class Stack:\n    def __init__(self):\n        self.items = []\n\n    def ", "self"),
        ("import os\nimport sys\nfrom ", "import"),
        ("for line in lines:\n    if", "line"),
    ],
)
def test_ordinary_python_is_continued_as_python(llm: LLM, prompt: str, word: str) -> None:
    (output,) = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=48))
    text = output.outputs[0].text
    assert word in text
    lines = (prompt + text).split("\n")
    # what was cut off in the middle does not count
    assert any(parses("\n".join(lines[:end])) for end in range(len(lines), prompt.count("\n"), -1))


def parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


@pytest.fixture(scope="module")
def with_all() -> float:
    """Bits a token of the model as it is."""
    return bits(demo.PATH)


@pytest.mark.parametrize(
    ("kind", "worst"), [("F16", 1.002), ("Q8_0", 1.002), ("Q5_1", 1.05), ("Q4_0", 1.25)]
)
def test_coarser_types_cost_accuracy_as_they_should(
    tmp_path: Path, with_all: float, kind: str, worst: float
) -> None:
    path = tmp_path / f"{kind}.gguf"
    requantize(demo.PATH, path, gguf.GGMLQuantizationType[kind])
    found = bits(path)
    assert with_all < found * 1.002
    assert found < with_all * worst


@pytest.mark.parametrize(("dtype", "worst"), [("bfloat16", 1.01), ("int8", 1.02)])
def test_coarser_products_cost_little(with_all: float, dtype: str, worst: float) -> None:
    assert with_all / worst < bits(demo.PATH, dtype) < with_all * worst


def bits(path: Path, dtype: str = "float32") -> float:
    """Bits a token of the text's first part."""
    scorer = Scorer(path, dtype)
    ids = build_tokenizer(open_gguf(path).metadata).encode(TEXT[:1500], parse_special=False)[:512]
    rows = scorer.log_probs(ids)
    scored = [-rows[i][ids[i + 1]] for i in range(len(ids) - 1)]
    return float(sum(scored) / len(scored) / math.log(2))


def test_answers_have_the_form_that_was_asked_for(llm: LLM, expected: list[list[int]]) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    guided = [
        SamplingParams(max_tokens=120, seed=1, structured_outputs=StructuredOutputs(json=schema)),
        SamplingParams(
            max_tokens=30,
            temperature=0,
            ignore_eos=True,
            structured_outputs=StructuredOutputs(choice=("yes", "no")),
        ),
        SamplingParams(
            max_tokens=30, seed=3, structured_outputs=StructuredOutputs(regex="[0-9]{3}-[a-z]{4}")
        ),
    ]
    params = [guided[0], GREEDY, *guided[1:], guided[0]]
    prompts = ["x =", PROMPTS[1], "Is it? ", "No. ", "x ="]
    outputs = [output.outputs[0] for output in llm.generate(prompts, params)]
    assert outputs[1].token_ids == expected[1]  # a free answer beside them is what it is alone
    for output in outputs[:1] + outputs[2:]:
        assert output.finish_reason == "stop"
    person = json.loads(outputs[0].text)
    jsonschema.validate(person, schema)
    assert outputs[4].token_ids == outputs[0].token_ids
    assert outputs[2].text in ("yes", "no")
    assert re.fullmatch("[0-9]{3}-[a-z]{4}", outputs[3].text)


def test_a_form_that_cannot_be_given_starts_nothing(llm: LLM) -> None:
    wanted = StructuredOutputs(json={"not": {"type": "string"}})
    params = SamplingParams(structured_outputs=wanted)
    with pytest.raises(RequestError, match="Unimplemented keys"):
        llm.generate(["a", "b"], [GREEDY, params])
    assert not llm.engine.has_work
