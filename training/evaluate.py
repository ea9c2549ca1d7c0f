"""Measures a model file on the held-out text, beside a 5-gram, and writes its card."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.config import model_config
from models.gguf_file import open_gguf
from models.load import load_model
from models.mesh import make_mesh
from runtime.text.tokenizer import Tokenizer, build_tokenizer
from training.card import Facts, write_card
from training.corpus import MANIFEST, Document, read_corpus
from training.held_out import HeldOut, cut_rows, held_out_texts
from training.model import dense_attention, loss_of
from training.ngram import ngram_bits_per_byte, train_ngram
from training.samples import make_samples

NGRAM_EVERY = 4  # training documents: the counts of more hardly change
ROWS_AT_ONCE = 4


def model_bits_per_byte(path: Path, texts: Sequence[str]) -> float:
    """Of the texts, by the forward that serves, in float32."""
    file = open_gguf(path)
    config = model_config(file)
    tokenizer = build_tokenizer(file.metadata)
    length = config.context_length
    rows = held_out_of_file(tokenizer, texts, length + 1)
    model = load_model(file, config, make_mesh(1), dtype="float32")
    graph, state = nnx.split(model)
    attention = dense_attention(length, "xla")

    @jax.jit
    def losses(state: Any, rows: jax.Array) -> jax.Array:
        model = nnx.merge(graph, state)
        positions = jnp.tile(jnp.arange(length), rows.shape[0])
        hidden, _ = model.decoder(rows[:, :-1].reshape(-1), positions, attention, None)
        return loss_of(model.head(hidden), rows[:, 1:].reshape(-1)).reshape(rows.shape[0], -1)

    total = 0.0
    for start in range(0, len(rows.rows), ROWS_AT_ONCE):
        end = start + ROWS_AT_ONCE
        found = np.asarray(losses(state, rows.rows[start:end]))
        total += float((found * rows.counts[start:end]).sum())
    return total / np.log(2) / rows.num_bytes


def held_out_of_file(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> HeldOut:
    """The texts in rows, by the tokenizer of a model file."""
    ids = [tokenizer.encode(text, parse_special=False) for text in texts]
    end = tokenizer.control_tokens["<|endoftext|>"]
    num_bytes = sum(len(text.encode()) for text in texts)
    return cut_rows(ids, end, length, batch=ROWS_AT_ONCE, num_bytes=num_bytes)


def evaluate(args: argparse.Namespace) -> None:
    documents = read_corpus(args.corpus)
    held_out: list[Document] = [document for document in documents if document.held_out]
    texts = held_out_texts(held_out, args.bytes, seed=0)
    training = [document.text for document in documents if not document.held_out]
    bits = model_bits_per_byte(args.model, texts)
    print(f"{bits:.4f} bits a byte: the model, on {args.bytes:,} held-out bytes")
    baseline = ngram_bits_per_byte(train_ngram(training[::NGRAM_EVERY]), texts)
    print(f"{baseline:.4f} bits a byte: 5-gram of bytes")
    facts = Facts(
        model=args.model,
        log=[json.loads(line) for line in args.log.read_text().splitlines()],
        manifest=json.loads(MANIFEST.read_text()),
        bits=bits,
        ngram_bits=baseline,
        ngram_share=1 / NGRAM_EVERY,
        num_bytes=sum(len(text.encode()) for text in texts),
        samples=make_samples(str(args.model)),
    )
    write_card(args.docs, facts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("model", type=Path, help="the GGUF file")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True, help="loss.jsonl of the training")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the card")
    parser.add_argument("--bytes", type=int, default=400_000, help="of held-out text")
    evaluate(parser.parse_args())


if __name__ == "__main__":
    main()
