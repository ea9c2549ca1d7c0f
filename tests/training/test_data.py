"""Rows of tokens: nothing is lost that should not be, and middles come back."""

import random

import jinja2
import numpy as np
import pytest

from benchmarks.vocabulary import CHAT_TEMPLATE
from training.chat import SYSTEM, functions_of, make_chat
from training.data import (
    PIECE_CHARS,
    Encoded,
    Encoder,
    chat_item,
    fim_item,
    make_items,
    make_rows,
    pack,
    pieces,
    plain_item,
)
from training.tokenizer import control_ids

LENGTH = 129


@pytest.mark.parametrize("seed", range(20))
def test_prefix_middle_and_suffix_are_the_text(documents, seed):
    text = documents[seed].text
    item = fim_item(text, random.Random(seed))
    assert item[::2] == ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|endoftext|>"]
    prefix, suffix, middle = item[1::2]
    assert prefix + middle + suffix == text


def test_pieces_are_the_text_in_whole_lines():
    text = "".join(f"line {i}\n" for i in range(3_000)) + "x" * 2 * PIECE_CHARS
    parts = list(pieces(text))
    assert "".join(parts) == text
    assert all(len(part) <= PIECE_CHARS for part in parts)
    assert all(part.endswith("\n") for part in parts[:3])


def test_control_tokens_come_from_names_alone(tokenizer):
    ids = control_ids(tokenizer)
    (found,) = Encoder(tokenizer).encode(
        [["<|fim_prefix|>", "a <|fim_suffix|> b", "<|endoftext|>"]]
    )
    assert found[0] == ids["<|fim_prefix|>"] and found[-1] == ids["<|endoftext|>"]
    assert not set(found[1:-1]) & set(ids.values())


def test_a_whole_item_stands_in_one_row():
    items = [Encoded(np.full(40, 1 + i, np.uint16), whole=True) for i in range(30)]
    items += [Encoded(np.full(300, 1_000 + i, np.uint16), whole=False) for i in range(8)]
    rows = pack(items, LENGTH, 0, random.Random(0))
    assert rows.shape[1] == LENGTH and rows.dtype == np.uint16
    for i in range(30):
        counts = (rows == 1 + i).sum(axis=1)
        assert sorted(counts)[-1] in (0, 40) and counts.sum() in (0, 40)


def test_little_is_lost_in_packing(documents, tokenizer):
    items, whole = make_items(documents, random.Random(1))
    ids = Encoder(tokenizer).encode(items)
    encoded = [Encoded(i, w) for i, w in zip(ids, whole, strict=True)]
    rows = pack(encoded, 1_025, 0, random.Random(1))
    assert rows.size > 0.85 * sum(map(len, ids))


def test_nothing_to_pack_gives_no_rows():
    assert pack([], LENGTH, 0, random.Random(0)).shape == (0, LENGTH)


def test_half_of_the_documents_have_their_middle_moved(documents):
    items, whole = make_items(documents, random.Random(2))
    chats = sum("<|im_start|>" in item for item in items)
    middles = sum("<|fim_middle|>" in item for item in items)
    assert 0 < chats < 0.2 * len(items)
    assert 0.35 < middles / (len(items) - chats) < 0.65
    assert sum(whole) == middles + chats


def test_rows_depend_on_the_seed_alone(documents, tokenizer):
    encoder = Encoder(tokenizer)
    made = [
        make_rows(documents, encoder, length=LENGTH, seed=seed) for seed in ((0, 0), (0, 0), (0, 1))
    ]
    assert np.array_equal(made[0], made[1])
    assert made[0].shape != made[2].shape or not np.array_equal(made[0], made[2])


def test_a_document_may_begin_with_its_place(documents):
    items = [plain_item(documents[0], random.Random(seed)) for seed in range(50)]
    headed = [item for item in items if item[0] == "<|repo_name|>"]
    assert 0 < len(headed) < 20
    assert headed[0][1:4] == ["toy\n", "<|file_sep|>", "module_0.py\n"]
    assert all(item[-2:] == [documents[0].text, "<|endoftext|>"] for item in items)


def test_functions_are_cut_out_whole():
    text = (
        "class A:\n"
        "    def f(self, x):\n"
        '        """Doubles it. More."""\n'
        "        doubled = x + x + x * 2 + 7\n"
        "        return doubled\n"
        "    def g(self):\n"
        "        return 1\n"
    )
    (function,) = functions_of(text)
    assert function.signature == "def f(self, x):"
    assert function.summary == "Doubles it."
    assert function.bare == "def f(self, x):\n    doubled = x + x + x * 2 + 7\n    return doubled"
    assert '    """Doubles it. More."""' in function.source
    assert functions_of("def broken(:") == []


def test_a_chat_is_what_the_template_renders(documents):
    turns = make_chat(functions_of(documents[3].text)[0], random.Random(5))
    assert [role for role, _ in turns] == ["system", "user", "assistant"]
    messages = [{"role": role, "content": content} for role, content in turns]
    rendered = jinja2.Template(CHAT_TEMPLATE).render(messages=messages)
    assert "".join(chat_item(turns)) == rendered + "<|endoftext|>"
    without = jinja2.Template(CHAT_TEMPLATE).render(messages=messages[1:])
    assert without.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n")
