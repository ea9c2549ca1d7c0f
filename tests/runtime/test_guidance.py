"""Whatever is chosen under a guide's masks has the form that was asked for."""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from models import demo
from models.gguf_file import open_gguf
from runtime import guidance
from runtime.errors import RequestError
from runtime.guidance import GuideMaker, TokenGuide
from runtime.structured_outputs import StructuredOutputs
from runtime.text.special_tokens import TokenType
from runtime.text.tokenizer import Tokenizer, build_tokenizer

SCHEMAS = json.loads(Path(__file__).with_name("json_schemas.json").read_text())
NUM_WALKS = 6
MAX_STEPS = 400
PADDING = 100  # rows of scores past the vocabulary, as models have them


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(open_gguf(demo.PATH).metadata)


@pytest.fixture(scope="module")
def maker(tokenizer: Tokenizer) -> GuideMaker:
    return GuideMaker(lambda: tokenizer)


@dataclass(frozen=True)
class Walker:
    """A model that knows nothing: it chooses among the allowed, later on what brings an end."""

    tokenizer: Tokenizer
    closers: frozenset[int]  # tokens that close something, and those that stop
    letters: frozenset[int]  # tokens that patterns and formats wait for

    def walk(self, guide: TokenGuide, seed: int) -> bytes | None:
        """The bytes of an answer; None if it comes to no end in time."""
        draw = random.Random(seed)
        written: list[int] = []
        for step in range(MAX_STEPS):
            ids = allowed(guide, self.tokenizer.vocab_size).tolist()
            if draw.random() < step / 20:
                wished = draw.choice((self.closers, self.letters))
                ids = [i for i in ids if i in wished] or ids
            chosen = draw.choice(ids)
            guide.accept(chosen)
            assert guide.error is None
            if chosen in self.tokenizer.stop_ids:
                assert guide.is_finished
            else:
                assert not self.tokenizer.is_control(chosen)
                written.append(chosen)
            if guide.is_finished:
                return b"".join(map(self.tokenizer.token_bytes, written))
        return None


@pytest.fixture(scope="module")
def walker(tokenizer: Tokenizer) -> Walker:
    spelled = {i: tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
    return Walker(
        tokenizer,
        frozenset(
            {i for i in spelled if spelled[i][:1] in (b'"', b"]", b"}")} | tokenizer.stop_ids
        ),
        frozenset(i for i in spelled if spelled[i] in (b"a", b"b", b"@", b".", b":", b"/")),
    )


def allowed(guide: TokenGuide, vocab_size: int) -> np.ndarray:
    """The ids that a mask allows, from a mask as long as a padded model's."""
    mask = np.full(-(-(vocab_size + PADDING) // 32), -1, np.int32)
    guide.fill(mask)
    ids = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
    assert ids.size and ids[-1] < vocab_size
    return ids


@pytest.mark.parametrize("name", SCHEMAS["supported"])
def test_every_answer_is_valid(maker: GuideMaker, walker: Walker, name: str) -> None:
    schema = SCHEMAS["supported"][name]
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    wanted = StructuredOutputs(json=schema)
    answers = [walker.walk(maker.make(wanted), seed) for seed in range(NUM_WALKS)]
    ended = [answer.decode() for answer in answers if answer is not None]
    assert len(ended) > NUM_WALKS / 2
    for answer in ended:
        validator.validate(json.loads(answer))


@pytest.mark.parametrize("name", SCHEMAS["unsupported"])
def test_what_cannot_be_promised_is_refused(maker: GuideMaker, name: str) -> None:
    with pytest.raises(RequestError) as refused:
        maker.make(StructuredOutputs(json=SCHEMAS["unsupported"][name]))
    assert refused.value.param == "structured_outputs.json"


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"regex": "[0-9]{3}-[a-z]{2,9}"}, "[0-9]{3}-[a-z]{2,9}"),
        ({"choice": ["yes", "yes, but", 'x"y\n\x01\\ é 😀 {1} | (']}, None),
        ({"grammar": 'start: "a" B+\nB: /[0-9]/'}, "a[0-9]+"),
        ({"grammar": 'root ::= "yes" | "no" other\nother ::= [a-z]+'}, "yes|no[a-z]+"),
        ({"json_object": True}, r"\{.*\}"),
    ],
)
def test_other_forms_are_kept(
    maker: GuideMaker, walker: Walker, fields: dict[str, Any], form: str | None
) -> None:
    wanted = StructuredOutputs(**fields)
    form = form or "|".join(map(re.escape, wanted.choice))
    answers = [walker.walk(maker.make(wanted), seed) for seed in range(NUM_WALKS)]
    ended = [answer.decode() for answer in answers if answer is not None]
    assert len(ended) > NUM_WALKS / 2
    assert all(re.fullmatch(form, answer, re.DOTALL) for answer in ended)


def test_a_character_may_be_written_in_pieces(maker: GuideMaker, tokenizer: Tokenizer) -> None:
    guide = maker.make(StructuredOutputs(choice=("骖€", "é")))
    ids_of = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    for byte in "骖€".encode():
        piece = ids_of[bytes([byte])]
        assert piece in allowed(guide, tokenizer.vocab_size)
        assert not guide.is_finished
        guide.accept(piece)
    assert guide.is_finished


def test_stop_tokens_are_allowed_exactly_where_the_answer_may_end(
    maker: GuideMaker, tokenizer: Tokenizer
) -> None:
    guide = maker.make(StructuredOutputs(regex="ab?c?"))
    ends = []
    for letter in "abc":
        ids = set(allowed(guide, tokenizer.vocab_size).tolist())
        ends.append(tokenizer.stop_ids & ids)
        guide.accept(*tokenizer.encode(letter, parse_special=False))
    assert ends == [set(), tokenizer.stop_ids, tokenizer.stop_ids]
    assert guide.is_finished


def test_no_control_token_is_allowed_in_a_string(maker: GuideMaker, tokenizer: Tokenizer) -> None:
    guide = maker.make(StructuredOutputs(json={"type": "string"}))
    guide.accept(*tokenizer.encode('"', parse_special=False))
    ids = allowed(guide, tokenizer.vocab_size).tolist()
    assert len(ids) > tokenizer.vocab_size / 2
    assert not any(tokenizer.is_control(i) for i in ids)


def test_white_space_comes_to_an_end(maker: GuideMaker, tokenizer: Tokenizer) -> None:
    guide = maker.make(StructuredOutputs(json_object=True))
    guide.accept(*tokenizer.encode("{", parse_special=False))
    blanks = {i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i).isspace()}
    written = 0
    while found := blanks & set(allowed(guide, tokenizer.vocab_size).tolist()):
        guide.accept(min(found))
        written += 1
        assert written < 100
    assert written > 2
    assert guide.error is None


def test_a_token_that_is_not_allowed_fails_the_guide_and_ends_the_answer(
    maker: GuideMaker, tokenizer: Tokenizer
) -> None:
    guide = maker.make(StructuredOutputs(choice=("yes",)))
    guide.accept(*tokenizer.encode("n", parse_special=False))
    assert guide.is_finished
    assert "cannot be followed" in (guide.error or "")
    assert set(allowed(guide, tokenizer.vocab_size)) == tokenizer.stop_ids
    guide.accept(0)  # what was in flight changes nothing
    assert guide.is_finished


def test_a_grammar_that_gets_too_complex_fails_the_guide(
    maker: GuideMaker, tokenizer: Tokenizer
) -> None:
    guide = maker.make(StructuredOutputs(regex="(a{1000}){1000}"))
    guide.accept(*tokenizer.encode("a", parse_special=False))
    assert "too many expressions" in (guide.error or "")


def test_guides_of_one_form_go_their_own_ways(maker: GuideMaker, tokenizer: Tokenizer) -> None:
    wanted = StructuredOutputs(choice=("aa", "bb"))
    first, second = maker.make(wanted), maker.make(wanted)
    first.accept(*tokenizer.encode("a", parse_special=False))
    second.accept(*tokenizer.encode("b", parse_special=False))
    first.accept(*tokenizer.encode("a", parse_special=False))
    second.accept(*tokenizer.encode("b", parse_special=False))
    assert (first.error, second.error) == (None, None)
    assert first.is_finished and second.is_finished


def test_compiled_grammars_are_kept_and_the_oldest_dropped(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[StructuredOutputs] = []
    start_matcher = guidance.start_matcher

    def count(wanted: StructuredOutputs, tokens: Any) -> Any:
        compiled.append(wanted)
        return start_matcher(wanted, tokens)

    monkeypatch.setattr(guidance, "start_matcher", count)
    monkeypatch.setattr(guidance, "MAX_CACHED", 2)
    maker = GuideMaker(lambda: tokenizer)
    a, b, c = (StructuredOutputs(choice=(text,)) for text in "abc")
    maker.prepare(a)
    for wanted in (a, b, a, c, a, b):
        maker.make(wanted)
    assert compiled == [a, b, c, b]


def test_a_vocabulary_of_sentence_pieces_is_followed() -> None:
    control, byte, normal = TokenType.CONTROL, TokenType.BYTE, TokenType.NORMAL
    words = {
        "<unk>": TokenType.UNKNOWN,
        **dict.fromkeys(["<s>", "</s>"], control),
        **dict.fromkeys([f"<0x{number:02X}>" for number in range(256)], byte),
        **dict.fromkeys(["▁", *"helowrd", "he", "ll", "hell", "hello", "▁hello"], normal),
    }
    small_spm = build_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": list(words),
            "tokenizer.ggml.token_type": list(words.values()),
            "tokenizer.ggml.scores": [float(len(word)) for word in words],
        }
    )
    maker = GuideMaker(lambda: small_spm)
    # one text alone: what it is made of is asked of the tokenizer
    guide = maker.make(StructuredOutputs(choice=("hello world é",)))
    written = []
    while not guide.is_finished:
        (token,) = allowed(guide, small_spm.vocab_size).tolist()
        guide.accept(token)
        written.append(token)
    assert b"".join(map(small_spm.token_bytes, written)).decode() == "hello world é"
    assert len(written) < len("hello world é".encode())


def test_a_model_without_an_end_has_no_guides() -> None:
    words = dict.fromkeys("abc", TokenType.NORMAL)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": list(words),
        "tokenizer.ggml.token_type": list(words.values()),
        "tokenizer.ggml.merges": [],
    }
    maker = GuideMaker(lambda: build_tokenizer(metadata))
    with pytest.raises(RequestError, match="no token that ends"):
        maker.make(StructuredOutputs(json_object=True))


@pytest.mark.model
def test_the_real_vocabulary_is_followed(model_file: Path) -> None:
    tokenizer = build_tokenizer(open_gguf(model_file).metadata)
    guide = GuideMaker(lambda: tokenizer).make(
        StructuredOutputs(json=SCHEMAS["supported"]["a person"])
    )
    text = '{"name": "Zoë 日本", "age": 42, "email": null, "tags": ["a"]}'
    for token in tokenizer.encode(text, parse_special=False):
        assert token in allowed(guide, tokenizer.vocab_size)
        guide.accept(token)
    assert guide.is_finished
    assert guide.error is None
