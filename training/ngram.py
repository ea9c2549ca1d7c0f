"""A byte-level n-gram model with interpolated Kneser-Ney smoothing: what a model must beat."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

ORDER = 5
DISCOUNT = 0.75
# a text begins after so many line ends
START = b"\n" * (ORDER - 1)
CHUNK_BYTES = 8_000_000


@dataclass(frozen=True)
class Grams:
    """All grams of one length, as numbers of so many bytes, and the contexts they begin with."""

    keys: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray  # of each context
    distinct: np.ndarray


@dataclass(frozen=True)
class NGram:
    """The model: `grams[k]` are those of k + 1 bytes."""

    grams: tuple[Grams, ...]


def windows(text: bytes) -> np.ndarray:
    """The last `ORDER` bytes at each byte of the text, as one number each."""
    raw = np.frombuffer(START + text, np.uint8).astype(np.uint64)
    found = np.zeros(len(text), np.uint64)
    for place in range(ORDER):
        found = (found << np.uint64(8)) | raw[place : place + len(text)]
    return found


def _grams(keys: np.ndarray, counts: np.ndarray) -> Grams:
    contexts, first, distinct = np.unique(
        keys >> np.uint64(8), return_index=True, return_counts=True
    )
    return Grams(keys, counts, contexts, np.add.reduceat(counts, first), distinct)


def train_ngram(texts: Iterable[str]) -> NGram:
    """Counts the longest grams; a shorter one counts the different bytes seen before it.

    Source: Chen and Goodman, An Empirical Study of Smoothing Techniques for Language
    Modeling, 1998.
    """
    keys, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    waiting: list[np.ndarray] = []

    def merge() -> tuple[np.ndarray, np.ndarray]:
        new, new_counts = np.unique(np.concatenate(waiting), return_counts=True)
        waiting.clear()
        every, place = np.unique(np.concatenate([keys, new]), return_inverse=True)
        total = np.bincount(place, weights=np.concatenate([counts, new_counts]))
        return every, total.astype(np.int64)

    num_bytes = 0
    for text in texts:
        waiting.append(windows(text.encode()))
        num_bytes += len(waiting[-1])
        if num_bytes >= CHUNK_BYTES:
            keys, counts = merge()
            num_bytes = 0
    if waiting:
        keys, counts = merge()
    grams = [_grams(keys, counts)]
    for length in range(ORDER - 1, 0, -1):
        mask = np.uint64((1 << (8 * length)) - 1)
        keys, counts = np.unique(keys & mask, return_counts=True)
        grams.append(_grams(keys, counts))
    return NGram(tuple(reversed(grams)))


def _found(values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted value is in the sorted values, and whether it is there."""
    place = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    return place, values[place] == wanted


def bits(model: NGram, text: bytes) -> float:
    """Of the whole text."""
    whole = windows(text)
    probability = np.full(len(whole), 1 / 256)
    for length, grams in enumerate(model.grams, 1):
        wanted = whole & np.uint64((1 << (8 * length)) - 1)
        at, known = _found(grams.keys, wanted)
        count = np.where(known, grams.counts[at], 0)
        at, known = _found(grams.contexts, wanted >> np.uint64(8))
        total, distinct = grams.totals[at], grams.distinct[at]
        mixed = np.maximum(count - DISCOUNT, 0) + DISCOUNT * distinct * probability
        probability = np.where(known, mixed / total, probability)
    return float(-np.log2(probability).sum())


def ngram_bits_per_byte(model: NGram, texts: Sequence[str]) -> float:
    """Of all texts, each from its start."""
    encoded = [text.encode() for text in texts]
    return sum(bits(model, text) for text in encoded) / sum(map(len, encoded))
