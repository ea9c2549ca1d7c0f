"""The requests that the options of a benchmark ask for."""

import argparse

import numpy as np

from benchmarks.lengths import (
    Sample,
    Tokenize,
    random_samples,
    sharegpt_like_samples,
    sharegpt_samples,
)


def make_samples(
    options: argparse.Namespace, count: int, *, vocab_size: int, tokenize: Tokenize
) -> list[Sample]:
    """So many requests; the same for the same seed.

    Raises:
        ValueError: an option is out of range, or the file does not hold so many.
    """
    if count < 1:
        raise ValueError(f"num-prompts must be at least 1, got {count}")
    rng = np.random.default_rng(options.seed)
    if options.dataset_name == "sharegpt-like":
        return sharegpt_like_samples(count, vocab_size=vocab_size, rng=rng)
    if options.dataset_name == "sharegpt":
        if options.dataset_path is None:
            raise ValueError("dataset-name sharegpt needs dataset-path, a file of conversations")
        return sharegpt_samples(
            options.dataset_path,
            count,
            output_len=options.sharegpt_output_len,
            tokenize=tokenize,
            rng=rng,
        )
    return random_samples(
        count,
        input_len=options.random_input_len,
        output_len=options.random_output_len,
        range_ratio=options.random_range_ratio,
        vocab_size=vocab_size,
        rng=rng,
    )
