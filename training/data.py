"""Documents to rows of tokens: plain, with the middle moved to the end, and as chats."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from training.chat import Function, Turn, functions_of, make_chat
from training.corpus import Document
from training.tokenizer import control_ids

FIM_SHARE = 0.5  # of the documents
HEADER_SHARE = 0.1  # of the plain documents
CHAT_SHARE = 0.04  # of the characters
CHAT_POOL_PERCENT = 15  # of the documents: where chats take their functions from
PIECE_CHARS = 5_000  # of a document whose middle moves: fits a row with room to spare
SHORT_MIDDLE = 400  # characters: half of the middles are no longer, as in an editor
KEEP_REST = 0.85  # of the cut documents; behind the others a row begins with a document
LOOK_AHEAD = 16  # whole items to try for one that fits

# A piece of text, or the name of a control token.
type Part = str
type Item = list[Part]


@dataclass(frozen=True)
class Encoded:
    """An item as tokens; one that is whole is not cut at the end of a row."""

    ids: np.ndarray
    whole: bool


class Encoder:
    """Turns items into tokens, many at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control = {name: np.array([i]) for name, i in control_ids(tokenizer).items()}
        self.end = control_ids(tokenizer)["<|endoftext|>"]

    def encode(self, items: Sequence[Item]) -> list[np.ndarray]:
        """The ids of each item. Only parts that are a control token's name become that token."""
        texts = [part for item in items for part in item if part not in self._control]
        found = iter(self._tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        return [
            np.concatenate(
                [
                    self._control[part] if part in self._control else np.array(next(found).ids)
                    for part in item
                ]
            ).astype(np.uint16)
            for item in items
        ]


def plain_item(document: Document, rng: random.Random) -> Item:
    """A document, now and then with its place before it."""
    item = [document.text, "<|endoftext|>"]
    if rng.random() < HEADER_SHARE:
        package, _, path = document.path.partition("/")
        item = ["<|repo_name|>", f"{package}\n", "<|file_sep|>", f"{path}\n", *item]
    return item


def pieces(text: str) -> Iterator[str]:
    """The text in stretches of whole lines."""
    start = 0
    while start < len(text):
        end = len(text)
        if end - start > PIECE_CHARS:
            end = text.rfind("\n", start, start + PIECE_CHARS) + 1 or start + PIECE_CHARS
        yield text[start:end]
        start = end


def fim_item(piece: str, rng: random.Random) -> Item:
    """A piece as prefix, suffix and middle, in Qwen2.5-Coder's order."""
    start = rng.randint(0, len(piece))
    longest = len(piece) - start
    if rng.random() < 0.5:
        longest = min(longest, SHORT_MIDDLE)
    end = start + rng.randint(0, longest)
    return [
        "<|fim_prefix|>",
        piece[:start],
        "<|fim_suffix|>",
        piece[end:],
        "<|fim_middle|>",
        piece[start:end],
        "<|endoftext|>",
    ]


def chat_item(turns: Sequence[Turn]) -> Item:
    """A conversation as the chat template renders it."""
    item: Item = []
    for role, content in turns:
        item += ["<|im_start|>", f"{role}\n{content}", "<|im_end|>", "\n"]
    return [*item, "<|endoftext|>"]


def chat_pool(documents: Sequence[Document], rng: random.Random) -> list[Function]:
    """Functions for chats, from some of the documents."""
    sources = [document for document in documents if document.path.endswith(".py")]
    chosen = rng.sample(sources, -(-len(sources) * CHAT_POOL_PERCENT // 100))
    return [function for document in chosen for function in functions_of(document.text)]


def make_items(documents: Sequence[Document], rng: random.Random) -> tuple[list[Item], list[bool]]:
    """Items in random order, and which of them are not to be cut."""
    functions = chat_pool(documents, rng)
    items: list[tuple[Item, bool]] = []
    for document in documents:
        if rng.random() < FIM_SHARE:
            items += [(fim_item(piece, rng), True) for piece in pieces(document.text)]
        else:
            items.append((plain_item(document, rng), False))
    budget = int(CHAT_SHARE * sum(len(document.text) for document in documents))
    while functions and budget > 0:
        chat = chat_item(make_chat(rng.choice(functions), rng))
        items.append((chat, True))
        budget -= sum(map(len, chat))
    rng.shuffle(items)
    return [item for item, _ in items], [whole for _, whole in items]


def pack(items: Sequence[Encoded], length: int, filler: int, rng: random.Random) -> np.ndarray:
    """Rows [R, length] of items end to end; what is not to be cut stands in one row.

    Where none of these fits, one that may be cut fills the row. What is left of it begins the next
    row, or now and then is dropped, so that rows begin where documents do, as prompts will. Once
    there is nothing to cut, rows end in the token `filler`. Whole items longer than a row are
    dropped, and so is the last row if it is not full.
    """
    whole = [item.ids for item in items if item.whole and len(item.ids) <= length]
    loose = [item.ids for item in items if not item.whole]
    whole_left, loose_left = sum(map(len, whole)), sum(map(len, loose))
    rows: list[np.ndarray] = []
    row: list[np.ndarray] = []
    free = length
    while whole or loose:
        # in proportion to what is left, so that neither kind is left alone
        take_whole = not loose or rng.random() * (whole_left + loose_left) < whole_left
        fits = next((i for i in range(len(whole))[:LOOK_AHEAD] if len(whole[i]) <= free), None)
        if take_whole and fits is not None:
            taken = whole.pop(fits)
            whole_left -= len(taken)
        elif loose:
            document = loose.pop()
            taken, rest = document[:free], document[free:]
            loose_left -= len(document)
            if len(rest) and rng.random() < KEEP_REST:
                loose.append(rest)
                loose_left += len(rest)
        else:
            taken = np.full(free, filler, np.uint16)
        row.append(taken)
        free -= len(taken)
        if free == 0:
            rows.append(np.concatenate(row))
            row, free = [], length
    return np.stack(rows) if rows else np.zeros((0, length), np.uint16)


def make_rows(
    documents: Sequence[Document], encoder: Encoder, *, length: int, seed: tuple[int, ...]
) -> np.ndarray:
    """Rows [R, length] uint16 of the documents, with an order and middles that `seed` decides."""
    rng = random.Random(repr(seed))
    items, whole = make_items(documents, rng)
    ids = encoder.encode(items)
    encoded = [Encoded(i, w) for i, w in zip(ids, whole, strict=True)]
    rows = pack(encoded, length, encoder.end, rng)
    return rows[np.random.default_rng(seed).permutation(len(rows))]
