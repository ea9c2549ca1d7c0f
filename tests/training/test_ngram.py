"""The baseline is a distribution, and learns."""

import numpy as np
import pytest

from training.ngram import bits, ngram_bits_per_byte, train_ngram


def test_probabilities_of_the_next_byte_add_up_to_one(documents):
    model = train_ngram([document.text for document in documents])
    for start in (b"def ", b"q", b"if value > t"):
        before = bits(model, start)
        after = [bits(model, start + bytes([byte])) for byte in range(256)]
        assert sum(2 ** (before - found) for found in after) == pytest.approx(1)


def test_seen_text_is_cheaper_than_unseen(documents):
    texts = [document.text for document in documents]
    model = train_ngram(texts[:150])
    assert ngram_bits_per_byte(model, texts[150:]) < 2
    assert bits(model, b"zzzzqqqq") > 5 * 8
    assert np.isfinite(bits(model, "ü".encode()))


def test_counts_do_not_depend_on_how_text_is_cut(monkeypatch):
    texts = [f"text number {i} of many\n" for i in range(50)]
    whole = train_ngram(texts)
    monkeypatch.setattr("training.ngram.CHUNK_BYTES", 64)
    for ours, theirs in zip(train_ngram(texts).grams, whole.grams, strict=True):
        assert np.array_equal(ours.keys, theirs.keys)
        assert np.array_equal(ours.counts, theirs.counts)
