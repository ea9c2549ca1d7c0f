"""Trains the vocabulary: byte-level BPE over Qwen2's words, control tokens behind the merges."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from gguf import TokenType
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from benchmarks.vocabulary import CONTROL_TOKENS, Vocabulary, byte_tokens
from runtime.text.pretokenizers import pretokenizer
from training.corpus import read_corpus

PRE = "qwen2"
VOCAB_SIZE = 4_096
SAMPLE_EVERY = 4  # documents: merges of a quarter are those of the whole
# those of Qwen2.5-Coder's that a model without pictures and tools has a use for
CONTROL = tuple(
    name
    for name in CONTROL_TOKENS
    if name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|repo_name|>", "<|file_sep|>")
    or name.startswith("<|fim_")
)


def train(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A tokenizer of `vocab_size` tokens, the control tokens included.

    It reads text only: a text that spells a control token is cut like any other.
    """
    tokenizer = Tokenizer(models.BPE())
    cuts = [pre_tokenizers.Split(Regex(p), "isolated") for p in pretokenizer(PRE).patterns]
    to_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, to_letters])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(CONTROL),
        initial_alphabet=byte_tokens(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The tokenizer as the keys of a GGUF file hold it."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    # the form of a merge differs between releases of the library
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    types = [TokenType.NORMAL] * len(tokens) + [CONTROL_TOKENS[name] for name in CONTROL]
    return Vocabulary([*tokens, *CONTROL], types, merges)


def control_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of the control tokens, which the tokenizer itself does not know."""
    return {name: tokenizer.get_vocab_size() + i for i, name in enumerate(CONTROL)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.tokenizer", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path, help="tokenizer.json")
    parser.add_argument("--vocab", type=int, default=VOCAB_SIZE)
    args = parser.parse_args()
    documents = [document for document in read_corpus(args.corpus) if not document.held_out]
    tokenizer = train((document.text for document in documents[::SAMPLE_EVERY]), args.vocab)
    tokenizer.save(str(args.out))
    sample = [document.text for document in documents[1::100]]
    num_tokens = sum(len(found.ids) for found in tokenizer.encode_batch_fast(sample))
    num_bytes = sum(len(text.encode()) for text in sample)
    print(f"{args.vocab:,} tokens, {num_bytes / num_tokens:.3f} bytes a token")


if __name__ == "__main__":
    main()
