"""What is the same to the last bit, and what is not: `python -m benchmarks.exactness`.

`captures` compares values captured in the served steps with those of the plain forward; `batches`
compares answers alone with the same in batches and in other chunks, without and with
`batch_invariant`, and what that costs.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ggjax import LLM, RequestOutput, SamplingParams
from models.kv_cache import BLOCK_Q

PATTERN = "attn.pattern"
PROMPT_LENGTHS = (5, 70, 150)
BATCHES = (2, 4, 8)
TOKENS = 32
SLOTS = 8
BUDGET, OTHER_BUDGET = 256, 128


class Distances(NamedTuple):
    """‖served − plain‖ / ‖plain‖ of a kind of site, the largest of all requests and layers.

    Attributes:
        prompts: of prompts, where the plain forward gets as many tokens as there are.
        padded: the same where it gets them padded to whole query blocks, as the served step does.
        answers: of answers, which the served steps compute a token at a time.
        again: of answers, where prompt and answer are captured once more, as a prompt.
    """

    prompts: float = 0.0
    padded: float = 0.0
    answers: float = 0.0
    again: float = 0.0


def compare_captures(
    llm: LLM, prompts: Sequence[list[int]], *, patterns: bool
) -> dict[str, Distances]:
    """How far captured values are from those of the plain forward, for each kind of site.

    Args:
        patterns: capture attention's patterns besides: it is then computed as the plain forward's.
    """
    sites = [name for name in llm.sites if patterns or _kind(name) != PATTERN]
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    capture = partial(llm.generate, capture=sites, use_tqdm=False)
    outputs = capture(prompts, params)
    whole = [
        prompt + output.outputs[0].token_ids[:-1]
        for prompt, output in zip(prompts, outputs, strict=True)
    ]
    one = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    again = capture(whole, one)
    plain = jax.jit(partial(llm.model.forward, capture=sites))
    worst = {_kind(name): Distances() for name in sites}
    for prompt, ids, output, repeated in zip(prompts, whole, outputs, again, strict=True):
        _, exact = plain(llm.params, jnp.array(ids))
        _, padded = plain(llm.params, jnp.array(ids + [0] * (-len(ids) % BLOCK_Q)))
        asked, answered = slice(0, len(prompt)), slice(len(prompt), None)
        assert output.captured is not None and repeated.captured is not None
        for name, own in output.captured.items():
            other = _like(padded[name], own)
            found = Distances(
                _distance(own[asked], _like(exact[name], own)[asked]),
                _distance(own[asked], other[asked]),
                _distance(own[answered], other[answered]),
                _distance(repeated.captured[name][answered], other[answered]),
            )
            kind = _kind(name)
            worst[kind] = Distances(*map(max, worst[kind], found))
    return worst


def _like(values: Array, own: np.ndarray) -> np.ndarray:
    """The plain forward's values of as many tokens, in the shape of captured ones."""
    rows = np.asarray(values, np.float32)[: own.shape[0]]
    rows = rows.reshape(*rows.shape[:1], *own.shape[1:-1], -1)
    return rows[..., : own.shape[-1]]  # a pattern has a column for each token


def compare_answers(
    alone: Sequence[RequestOutput], others: Sequence[RequestOutput]
) -> tuple[int, int, float]:
    """Answers that differ, tokens that do, and the largest change of a log-probability.

    Log-probabilities are compared as long as the contexts are the same.
    """
    num_answers, num_tokens, change = 0, 0, 0.0
    for one, other in zip(alone, others, strict=True):
        own, theirs = _scored(one), _scored(other)
        differing = [a != b for (a, _), (b, _) in zip(own, theirs, strict=True)]
        num_answers += any(differing)
        num_tokens += sum(differing)
        same = differing.index(True) if any(differing) else len(differing)
        changes = [abs(own[i][1] - theirs[i][1]) for i in range(same)]
        change = max([change, *changes])
    return num_answers, num_tokens, change


def seconds(llm: LLM, prompts: Sequence[list[int]]) -> float:
    """Of one call."""
    start = time.perf_counter()
    llm.generate(prompts, _params(), use_tqdm=False)
    return time.perf_counter() - start


def in_batches(llm: LLM, prompts: Sequence[list[int]], size: int) -> list[RequestOutput]:
    """The answers to all prompts, so many at a time."""
    return [
        output
        for i in range(0, len(prompts), size)
        for output in llm.generate(prompts[i : i + size], _params(), use_tqdm=False)
    ]


def _params() -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, logprobs=0)


def _scored(output: RequestOutput) -> list[tuple[int, float]]:
    answer = output.outputs[0]
    assert answer.logprobs is not None
    return [
        (i, entry[i].logprob) for i, entry in zip(answer.token_ids, answer.logprobs, strict=True)
    ]


def _kind(name: str) -> str:
    return name.split(".", 2)[2] if name.startswith("layers.") else name


def _distance(own: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(own - other) / max(np.linalg.norm(other), 1e-30))


def _open(options: argparse.Namespace, **more: Any) -> LLM:
    settings = {"max_num_seqs": SLOTS, "max_num_batched_tokens": BUDGET, "dtype": options.dtype}
    return LLM(options.model, max_model_len=options.max_model_len, **(settings | more))


def _prompts(llm: LLM, lengths: Sequence[int]) -> list[list[int]]:
    """Pieces of this file, each from another place."""
    with open(__file__) as file:
        ids = llm.tokenize(file.read())
    starts = np.linspace(0, len(ids) - max(lengths), len(lengths)).astype(int).tolist()
    return [ids[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def _print_captures(options: argparse.Namespace) -> None:
    with _open(options) as llm:
        prompts = _prompts(llm, PROMPT_LENGTHS)
        for patterns in (False, True):
            worst = compare_captures(llm, prompts, patterns=patterns)
            print("all sites" if patterns else f"all sites but {PATTERN}")
            print(" ".join([f"{'':16}", *(f"{name:>9}" for name in Distances._fields)]))
            for kind, distances in worst.items():
                print(" ".join([f"{kind:16}", *(f"{distance:9.1e}" for distance in distances)]))


def _print_batches(options: argparse.Namespace) -> None:
    with _open(options) as plain, _open(options, batch_invariant=True) as invariant:
        prompts = _prompts(plain, [20 + 23 * i for i in range(SLOTS)])
        print(f"{len(prompts)} answers of {TOKENS} tokens: how many differ from those alone")
        for name, llm in (("plain", plain), ("batch_invariant", invariant)):
            alone = in_batches(llm, prompts, 1)
            runs = {f"batches of {size}": in_batches(llm, prompts, size) for size in BATCHES}
            if llm is plain:  # other options are another promise
                with _open(options, max_num_batched_tokens=OTHER_BUDGET) as other:
                    runs[f"chunks of {OTHER_BUDGET}"] = in_batches(other, prompts, 1)
            for run, outputs in runs.items():
                answers, tokens, change = compare_answers(alone, outputs)
                print(f"{name:16} {run:14} {answers:3} answers {tokens:4} tokens  Δ {change:.1e}")
        for size in (1, SLOTS):  # by turns, so that both see the same machine
            turns = [[seconds(llm, prompts[:size]) for llm in (plain, invariant)] for _ in range(5)]
            fast, slow = np.min(turns, axis=0)
            rates = [size * TOKENS / spent for spent in (fast, slow)]
            print(
                f"{size} at once: {rates[0]:.0f} tokens/s, with batch_invariant {rates[1]:.0f}: "
                f"{slow / fast:.2f} times as long"
            )


def main() -> None:
    """Prints one of the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("captures", "batches"))
    parser.add_argument("--model", default="demo", help="a GGUF file (%(default)s)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (%(default)s)")
    parser.add_argument("--max-model-len", type=int, default=512, help="(%(default)s)")
    options = parser.parse_args()
    {"captures": _print_captures, "batches": _print_batches}[options.what](options)


if __name__ == "__main__":
    main()
