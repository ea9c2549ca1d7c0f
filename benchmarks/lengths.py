"""Lengths of prompts and answers: uniform, like ShareGPT's, or a ShareGPT file's own."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

# Mean tokens of ShareGPT's prompts and answers. Source: Kwon et al., Efficient Memory Management
# for Large Language Model Serving with PagedAttention, 2023, figure 11.
SHAREGPT_PROMPT_MEAN, SHAREGPT_ANSWER_MEAN = 161.31, 337.99
# The paper shows a long tail and no number for it; of a log-normal's logarithm, our choice.
SHAREGPT_PROMPT_SPREAD, SHAREGPT_ANSWER_SPREAD = 1.2, 0.9
# What vLLM keeps of ShareGPT
SHORTEST, LONGEST_PROMPT, LONGEST_TOTAL = 4, 1024, 2048

# tokenize(texts) -> ids of each
type Tokenize = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True)
class Sample:
    """One request: the prompt's ids, or its text, and the tokens to answer."""

    prompt: list[int] | str
    prompt_len: int
    output_len: int


def random_samples(
    count: int,
    *,
    input_len: int,
    output_len: int,
    range_ratio: float,
    vocab_size: int,
    rng: np.random.Generator,
) -> list[Sample]:
    """Random ids; lengths uniform in [len * (1 - ratio), len * (1 + ratio)], as vLLM draws them.

    Raises:
        ValueError: a length or the ratio is out of range.
    """
    if input_len < 1 or output_len < 1:
        raise ValueError(f"lengths must be at least 1, got {input_len} and {output_len}")
    if not 0 <= range_ratio < 1:
        raise ValueError(f"random-range-ratio must lie in [0, 1), got {range_ratio}")
    lengths = [
        rng.integers(
            max(1, math.floor(mean * (1 - range_ratio))),
            math.ceil(mean * (1 + range_ratio)) + 1,
            count,
        )
        for mean in (input_len, output_len)
    ]
    return _with_random_ids(*lengths, vocab_size=vocab_size, rng=rng)


def sharegpt_like_samples(count: int, *, vocab_size: int, rng: np.random.Generator) -> list[Sample]:
    """Random ids; lengths log-normal with ShareGPT's means, cut where vLLM cuts ShareGPT."""
    prompts = _log_normal(SHAREGPT_PROMPT_MEAN, SHAREGPT_PROMPT_SPREAD, LONGEST_PROMPT, count, rng)
    longest_answer = LONGEST_TOTAL - LONGEST_PROMPT
    answers = _log_normal(SHAREGPT_ANSWER_MEAN, SHAREGPT_ANSWER_SPREAD, longest_answer, count, rng)
    return _with_random_ids(prompts, answers, vocab_size=vocab_size, rng=rng)


def sharegpt_samples(
    path: Path, count: int, *, output_len: int | None, tokenize: Tokenize, rng: np.random.Generator
) -> list[Sample]:
    """First turns of conversations of a ShareGPT file, shuffled, with the lengths of their answers.

    Args:
        output_len: of every answer, instead of its own length.
        tokenize: the served model's.

    Raises:
        ValueError: the file is not ShareGPT's JSON, or holds too few conversations that fit.
    """
    pairs = _first_turns(path)
    samples: list[Sample] = []
    order = [pairs[i] for i in rng.permutation(len(pairs))]
    for start in range(0, len(order), 256):
        some = order[start : start + 256]
        ids = tokenize([text for pair in some for text in pair])
        for (prompt, _), prompt_ids, answer_ids in zip(some, ids[::2], ids[1::2], strict=True):
            answer = output_len or len(answer_ids)
            if (
                min(len(prompt_ids), len(answer_ids)) >= SHORTEST
                and len(prompt_ids) <= LONGEST_PROMPT
                and len(prompt_ids) + answer <= LONGEST_TOTAL
            ):
                samples.append(Sample(prompt, len(prompt_ids), answer))
                if len(samples) == count:
                    return samples
    raise ValueError(f"{path} has {len(samples)} conversations that fit, not {count}")


def _first_turns(path: Path) -> list[tuple[str, str]]:
    try:
        entries: Any = json.loads(path.read_text())
        turns = [entry.get("conversations") or entry.get("conversation") for entry in entries]
        return [(t[0]["value"], t[1]["value"]) for t in turns if t and len(t) >= 2]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no ShareGPT file: {error!r}") from error


def _with_random_ids(
    prompts: np.ndarray, answers: np.ndarray, *, vocab_size: int, rng: np.random.Generator
) -> list[Sample]:
    return [
        Sample(rng.integers(0, vocab_size, int(p)).tolist(), int(p), int(a))
        for p, a in zip(prompts, answers, strict=True)
    ]


def _log_normal(
    mean: float, spread: float, longest: int, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Lengths whose mean, after cutting them to [SHORTEST, longest], is the one given."""
    normal = NormalDist()
    grid = np.array([normal.inv_cdf((i + 0.5) / 4096) for i in range(4096)])
    low, high = 0.0, math.log(longest) + 4
    for _ in range(50):
        middle = (low + high) / 2
        cut = np.clip(np.exp(middle + spread * grid), SHORTEST, longest)
        low, high = (middle, high) if cut.mean() < mean else (low, middle)
    drawn = np.exp(low + spread * rng.standard_normal(count))
    return np.clip(np.rint(drawn), SHORTEST, longest).astype(np.int64)
