"""A streamed text is the decoded text, however it is cut and whatever the ids."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.text.detokenizer import IncrementalDetokenizer
from runtime.text.tokenizer import Tokenizer


def stream(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    sizes: Sequence[int],
    skip_special: bool = True,
    start: bool = True,
) -> list[str]:
    """The pieces of `ids`, pushed in groups of the given sizes, the rest one by one."""
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special, start=start)
    pieces, at = [], 0
    for size in [*sizes, *[1] * len(ids)]:
        pieces.append(detokenizer.push(ids[at : at + size]))
        at += size
    return [*pieces, detokenizer.flush()]


def check(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    sizes = data.draw(st.lists(st.integers(0, 5), max_size=10))
    skip, start = data.draw(st.booleans()), data.draw(st.booleans())
    whole = tokenizer.decode(ids, skip_special=skip, start=start)
    assert "".join(stream(tokenizer, ids, sizes, skip, start)) == whole


@settings(max_examples=1000, deadline=None)
@given(data=st.data())
def test_pieces_join_to_the_whole(real: Tokenizer, data: st.DataObject) -> None:
    check(real, data)


@settings(max_examples=1000, deadline=None)
@given(data=st.data())
def test_pieces_join_to_the_whole_with_single_bytes(small: Tokenizer, data: st.DataObject) -> None:
    check(small, data)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_pieces_join_to_the_whole_with_sentencepiece(
    small_spm: Tokenizer, data: st.DataObject
) -> None:
    check(small_spm, data)


@given(text=st.text())
def test_valid_text_never_shows_a_replacement_character(small: Tokenizer, text: str) -> None:
    pieces = stream(small, small.encode(text, parse_special=False), [])
    assert "".join(pieces) == text
    assert "".join(pieces).count("\ufffd") == text.count("\ufffd")


def test_a_character_appears_when_it_is_complete(small: Tokenizer) -> None:
    assert stream(small, small.encode("😀", parse_special=False), []) == ["", "", "", "😀", ""]


def test_an_unfinished_character_ends_as_one_replacement(small: Tokenizer) -> None:
    ids = small.encode("a😀", parse_special=False)[:-1]
    assert stream(small, ids, []) == ["a", "", "", "", "\ufffd"]


def test_the_first_space_of_sentencepiece_goes_only_at_the_start(small_spm: Tokenizer) -> None:
    ids = small_spm.encode("hello hello", parse_special=False)
    assert stream(small_spm, ids, []) == ["hello", " hello", ""]
    assert stream(small_spm, ids, [], start=False) == [" hello", " hello", ""]


def test_an_unknown_id_is_refused(small: Tokenizer) -> None:
    with pytest.raises(ValueError, match="token id"):
        IncrementalDetokenizer(small).push([small.vocab_size])
