"""Rows of tokens for training, made by processes beside it, in an order that the seed decides."""

import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from training.corpus import Document, read_corpus
from training.data import Encoder, make_rows

SHARD_CHARS = 16_000_000  # of text: some thousand rows
MAX_AHEAD = 4  # shards of one process that wait for training
POLL_SECONDS = 0.02


def shard_documents(documents: list[Document], shard: int, seed: int) -> list[Document]:
    """The documents of a shard: every epoch goes through all of them, in an order of its own."""
    num_chars = sum(len(document.text) for document in documents)
    per_epoch = max(1, round(num_chars / SHARD_CHARS))
    epoch, part = divmod(shard, per_epoch)
    order = list(range(len(documents)))
    random.Random(f"{seed} {epoch}").shuffle(order)
    return [documents[i] for i in order[part::per_epoch]]


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard}.npy"


def _produce(
    corpus: Path, tokenizer: Path, folder: Path, length: int, seed: int, worker: int, workers: int
) -> None:
    """Writes every `workers`-th shard until it is ended."""
    # `tokenizers` reads it when it first encodes
    os.environ["RAYON_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    documents = [document for document in read_corpus(corpus) if not document.held_out]
    encoder = Encoder(Tokenizer.from_file(str(tokenizer)))
    shard = worker
    while True:
        chosen = shard_documents(documents, shard, seed)
        rows = make_rows(chosen, encoder, length=length, seed=(seed, shard))
        part = folder / f"{shard}.part.npy"
        np.save(part, rows)
        part.rename(_shard_path(folder, shard))
        while _shard_path(folder, shard - workers * MAX_AHEAD).exists():
            time.sleep(POLL_SECONDS)
        shard += workers


class RowStream:
    """Batches of rows without end.

    Attributes:
        waited: seconds that training stood still for want of rows.
    """

    def __init__(self, folder: Path, processes: list[multiprocessing.process.BaseProcess]) -> None:
        self._folder = folder
        self._processes = processes
        self.waited = 0.0

    def _shard(self, number: int) -> np.ndarray:
        path = _shard_path(self._folder, number)
        began = time.monotonic()
        while not path.exists():
            if not all(process.is_alive() for process in self._processes):
                raise RuntimeError("a process that makes rows has ended")
            time.sleep(POLL_SECONDS)
        self.waited += time.monotonic() - began
        rows = np.load(path)
        path.unlink()
        return rows

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Rows [size, length] int32."""
        rows = np.zeros((0, 0), np.uint16)
        shard = 0
        while True:
            while len(rows) < size:
                new = self._shard(shard)
                rows = np.concatenate([rows, new]) if len(rows) else new
                shard += 1
            yield rows[:size].astype(np.int32)
            rows = rows[size:]


@contextmanager
def row_stream(
    corpus: Path, tokenizer: Path, *, length: int, seed: int, workers: int
) -> Iterator[RowStream]:
    """A stream over the corpus without its held-out part; the processes end with the context."""
    # not forked: JAX has threads
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        processes = [
            context.Process(
                target=_produce,
                args=(corpus, tokenizer, Path(name), length, seed, worker, workers),
                daemon=True,
            )
            for worker in range(workers)
        ]
        for process in processes:
            process.start()
        try:
            yield RowStream(Path(name), list(processes))
        finally:
            for process in processes:
                process.kill()
                process.join()
