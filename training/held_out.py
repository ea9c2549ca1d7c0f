"""Held-out documents as rows whose losses add up to the bits of their bytes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from training.corpus import Document
from training.tokenizer import control_ids

MAX_BYTES = 2_000_000  # enough for three digits, quick enough to repeat during training


@dataclass(frozen=True)
class HeldOut:
    """Text to be predicted.

    Attributes:
        rows: [R, length], `<|endoftext|>` and a stretch of a document, padded
        counts: [R, length - 1], 1 where the next token is of the document
        num_bytes: of all stretches
    """

    rows: np.ndarray
    counts: np.ndarray
    num_bytes: int


def held_out_texts(documents: Sequence[Document], max_bytes: int, seed: int) -> list[str]:
    """Whole documents in a random order, up to so many bytes."""
    texts = [document.text for document in documents]
    random.Random(seed).shuffle(texts)
    chosen, num_bytes = [], 0
    for text in texts:
        size = len(text.encode())
        if num_bytes + size <= max_bytes:
            chosen.append(text)
            num_bytes += size
    return chosen


def held_out_rows(
    documents: Sequence[Document], tokenizer: Tokenizer, length: int, batch: int, *, seed: int
) -> HeldOut:
    """Some of the documents in rows; the number of rows is a multiple of `batch`."""
    texts = held_out_texts(documents, MAX_BYTES, seed)
    end = control_ids(tokenizer)["<|endoftext|>"]
    found = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    num_bytes = sum(len(text.encode()) for text in texts)
    return cut_rows([encoding.ids for encoding in found], end, length, batch, num_bytes)


def cut_rows(
    documents: Sequence[Sequence[int]], end: int, length: int, batch: int, num_bytes: int
) -> HeldOut:
    """Every document from its start, cut into rows that each begin with the token `end`.

    A cut costs the context before it, to the disadvantage of the model.
    """
    rows, counts = [], []
    for document in documents:
        for start in range(0, len(document), length - 1):
            ids = document[start : start + length - 1]
            padding = length - 1 - len(ids)
            rows.append([end, *ids, *[end] * padding])
            counts.append([1] * len(ids) + [0] * padding)
    missing = -len(rows) % batch
    rows += [[end] * length] * missing
    counts += [[0] * (length - 1)] * missing
    return HeldOut(np.array(rows, np.int32), np.array(counts, np.int32), num_bytes)
