"""The vocabulary of a model file: metadata in, checked facts out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import ModelFileError
from runtime.text.pretokenizers import PreTokenizer, pretokenizer
from runtime.text.special_tokens import (
    END_NAMES,
    FIM_ROLES,
    FimTokens,
    TokenType,
    first_named,
)

KEY = "tokenizer.ggml."
BYTE_TEXT = re.compile(r"<0x[0-9A-F]{2}>")
MAX_SCORE = 1e30  # finite in float32
MAX_CONTROL_CHARS = 256  # the longest known has 40; a chat is searched for each of their ends


@dataclass(frozen=True)
class Vocabulary:
    """Everything a tokenizer is built from; every id is below `len(tokens)`.

    Attributes:
        model: "gpt2" (byte-level BPE) or "llama" (SentencePiece).
        tokens: text of each id; no two equal, none empty.
        types: `TokenType` of each id, control-looking names already corrected.
        merges: pairs in order of rank ("gpt2" only).
        scores: log-probability-like score of each id ("llama" only).
        words: how text is cut into words ("gpt2" only).
        stop_ids: ids that end a generation.
    """

    model: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[tuple[str, str]]
    scores: Sequence[float]
    words: PreTokenizer | None
    add_bos: bool
    add_space_prefix: bool
    remove_extra_whitespaces: bool
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    stop_ids: frozenset[int]
    fim: FimTokens | None


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """Reads and checks the `tokenizer.ggml.*` keys of a model file.

    Raises:
        ModelFileError: a key is missing, of the wrong kind or contradicts another; it is named.
    """
    model = _value(metadata, "model", str)
    if model not in ("gpt2", "llama"):
        raise ModelFileError(
            f"tokenizer {model!r} is not supported; known are 'gpt2' and 'llama'",
            subject=KEY + "model",
        )
    tokens = _tokens(metadata)
    ids = {text: number for number, text in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(text for number, text in enumerate(tokens) if ids[text] != number)
        raise ModelFileError(f"token {twice!r} occurs twice", subject=KEY + "tokens")
    types = _types(metadata, len(tokens))
    by_words = model == "gpt2"
    # Corrects `types`, so it comes before anything that asks for a type.
    roles, stop_ids = _marks(metadata, ids, types)
    _check_texts(tokens, types)
    words = pretokenizer(_value(metadata, "pre", str, "default")) if by_words else None

    def special(name: str, default: int | None = None) -> int | None:
        number = _id(metadata, f"{KEY}{name}_token_id", len(tokens))
        return number if number is not None or default not in range(len(tokens)) else default

    # SentencePiece writes <unk>, <s>, </s> first, and old files do not repeat that.
    bos_id = special("bos", None if by_words else 1)
    eos_id = special("eos", None if by_words else 2)
    stops = (eos_id, special("eot"), special("eom"), *stop_ids)
    add_bos = _value(metadata, "add_bos_token", bool, words is None or words.add_bos)
    if add_bos and bos_id is None:
        raise ModelFileError(
            "asks for a bos token that the file does not name", subject=KEY + "add_bos_token"
        )
    return Vocabulary(
        model=model,
        tokens=tokens,
        types=types,
        merges=_merges(metadata, ids) if by_words else (),
        scores=() if by_words else _scores(metadata, len(tokens)),
        words=words,
        add_bos=add_bos,
        add_space_prefix=not by_words and _value(metadata, "add_space_prefix", bool, True),
        remove_extra_whitespaces=_value(metadata, "remove_extra_whitespaces", bool, False),
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=special("padding"),
        stop_ids=frozenset(number for number in stops if number is not None),
        fim=_fim(roles),
    )


def _value[T](metadata: Mapping[str, Any], name: str, kind: type[T], default: T | None = None) -> T:
    value = metadata.get(KEY + name, default)
    if not isinstance(value, kind):
        problem = "is missing" if value is None else f"must be a {kind.__name__}, got {value!r}"
        raise ModelFileError(problem, subject=KEY + name)
    return value


def _array(metadata: Mapping[str, Any], name: str, length: int | None = None) -> Sequence[Any]:
    value = metadata.get(KEY + name)
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(value, list | tuple):
        problem = "is missing" if value is None else "must be an array"
        raise ModelFileError(problem, subject=KEY + name)
    if length is not None and len(value) != length:
        raise ModelFileError(
            f"has {len(value):,} entries for {length:,} tokens", subject=KEY + name
        )
    return value


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    tokens = _array(metadata, "tokens")
    if not tokens:
        raise ModelFileError("is empty", subject=KEY + "tokens")
    _all(tokens, str, "tokens")
    # A nameless token (llama.cpp's convention) must still differ from every other.
    return [text or f"[EMPTY_{number}]" for number, text in enumerate(tokens)]


def _all(values: Iterable[Any], kind: type, name: str) -> None:
    for number, value in enumerate(values):
        if not isinstance(value, kind):
            raise ModelFileError(f"entry {number} is {value!r}, no {kind}", subject=KEY + name)


def _types(metadata: Mapping[str, Any], vocab_size: int) -> list[int]:
    if KEY + "token_type" not in metadata:
        return [TokenType.NORMAL] * vocab_size
    types = list(_array(metadata, "token_type", vocab_size))
    strange = set(types) - set(TokenType)
    if strange:
        raise ModelFileError(f"unknown types {strange}", subject=KEY + "token_type")
    return types


def _scores(metadata: Mapping[str, Any], vocab_size: int) -> list[float]:
    scores = _array(metadata, "scores", vocab_size)
    for number, score in enumerate(scores):
        if not isinstance(score, int | float) or not abs(score) <= MAX_SCORE:
            raise ModelFileError(f"entry {number} is {score!r}", subject=KEY + "scores")
    return [float(score) for score in scores]


def _merges(metadata: Mapping[str, Any], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs of tokens, in order; the space that parts them is never the first character."""
    lines = _array(metadata, "merges")
    _all(lines, str, "merges")
    pairs = []
    for number, line in enumerate(lines):
        cut = line.find(" ", 1)
        left, right = line[:cut], line[cut + 1 :]
        if cut < 0 or left not in ids or right not in ids or left + right not in ids:
            raise ModelFileError(
                f"merge {number} ({line!r}) is not a pair of tokens that make a token",
                subject=KEY + "merges",
            )
        pairs.append((left, right))
    return pairs


def _id(metadata: Mapping[str, Any], key: str, vocab_size: int) -> int | None:
    number = metadata.get(key)
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or number not in range(vocab_size):
        raise ModelFileError(
            f"{number!r} is no id of a vocabulary of {vocab_size:,} tokens", subject=key
        )
    return number


def _marks(
    metadata: Mapping[str, Any], ids: Mapping[str, int], types: list[int]
) -> tuple[dict[str, int | None], set[int]]:
    """Fill-in-the-middle and end tokens; those known by name alone become control tokens."""
    roles: dict[str, int | None] = {}
    by_name = {ids[name] for name in END_NAMES if name in ids}
    stop_ids = set(by_name)
    for role, place in FIM_ROLES.items():
        given = [_id(metadata, key, len(types)) for key in place.keys]
        found = next((number for number in given if number is not None), None)
        if found is None:
            found = first_named(place.names, ids)
            by_name |= {found} if found is not None else set()
        if place.ends_generation and found is not None:
            stop_ids.add(found)
        roles[role] = found
    for number in by_name:
        types[number] = TokenType.CONTROL
    return roles, stop_ids


def _check_texts(tokens: Sequence[str], types: Sequence[int]) -> None:
    for number, kind in enumerate(types):
        if kind == TokenType.BYTE and not BYTE_TEXT.fullmatch(tokens[number]):
            raise ModelFileError(
                f"token {number} ({tokens[number]!r}) is typed as a byte and is none",
                subject=KEY + "tokens",
            )
        if kind == TokenType.CONTROL and len(tokens[number]) > MAX_CONTROL_CHARS:
            raise ModelFileError(
                f"control token {number} has {len(tokens[number]):,} characters; "
                f"at most {MAX_CONTROL_CHARS} are allowed",
                subject=KEY + "tokens",
            )


def _fim(roles: Mapping[str, int | None]) -> FimTokens | None:
    prefix, suffix, middle = roles["prefix"], roles["suffix"], roles["middle"]
    if prefix is None or suffix is None or middle is None:
        return None
    return FimTokens(prefix, suffix, middle, roles["pad"], roles["repo"], roles["separator"])
