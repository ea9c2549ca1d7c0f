"""Tokens a second of the engine alone: prompts, and decoding answers together.

python -m benchmarks.speed MODEL [--dtypes bfloat16 int8] [--prefill 512] [--decode 1 8x2048]
"""

import argparse
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from models.gguf_file import open_gguf
from runtime.config import RuntimeConfig, default_cache_dir
from runtime.engine import Engine
from runtime.request import SamplingParams
from runtime.start import start_engine
from runtime.step_plan import MIXED_TOKENS

DECODED = 64
SHORT = 16  # tokens of a prompt where nothing is said


def prefill_seconds(engine: Engine, length: int, rounds: int) -> float:
    """Median time of a fresh prompt, answered by one token."""
    rng = np.random.default_rng(length)
    seconds = []
    for i in range(rounds + 1):
        prompt = rng.integers(0, engine.info.vocab_size, length).tolist()
        begin = time.monotonic()
        run(engine, [prompt], 1, first_id=1_000_000 + length * 100 + i)
        seconds.append(time.monotonic() - begin)
    return statistics.median(seconds[1:])


def decode_seconds(engine: Engine, batch: int, length: int) -> tuple[float, int]:
    """Median step of `batch` answers to prompts of `length` tokens, and their mean context then."""
    rng = np.random.default_rng(batch)
    prompts = [rng.integers(0, engine.info.vocab_size, length).tolist() for _ in range(batch)]
    # they begin one after another: only steps that all of them share count
    begun = 8 + 2 * batch * length // MIXED_TOKENS
    steps = run(engine, prompts, DECODED + begun, first_id=1000 * batch + length)
    first = next(i for i, (_, num_tokens) in enumerate(steps) if num_tokens == batch) + 8
    seconds = np.diff([end for end, _ in steps[first : first + DECODED]])
    written = sum(num_tokens for _, num_tokens in steps[: first + DECODED // 2])
    return statistics.median(seconds.tolist()), length + written // batch


def run(
    engine: Engine, prompts: list[list[int]], max_tokens: int, first_id: int
) -> list[tuple[float, int]]:
    """Answers greedily; when each step ended, and for how many requests it had a token."""
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    for i, prompt in enumerate(prompts):
        engine.add(first_id + i, prompt, params)
    steps = []
    while engine.has_work:
        outputs = engine.step()
        steps.append((time.monotonic(), len(outputs)))
    return steps


def print_report(stage: str, text: str, fraction: float | None) -> None:
    """The lines of a start, without its progress."""
    if fraction in (None, 0.0, 1.0):
        print(f"  {stage}: {text}", flush=True)


def batch_and_length(text: str) -> tuple[int, int]:
    """`8x2048`, or `8` alone."""
    batch, _, length = text.partition("x")
    return int(batch), int(length or SHORT)


def main() -> None:
    """Prints a line for each form of the weights, all measured in one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "int8"])
    parser.add_argument("--prefill", nargs="+", type=int, default=[512], metavar="LENGTH")
    parser.add_argument(
        "--decode",
        nargs="+",
        type=batch_and_length,
        default=[(1, SHORT), (8, SHORT)],
        metavar="BATCH[xLENGTH]",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-model-len", type=int, default=1024)
    parser.add_argument("--max-num-seqs", type=int, help="fewer programs to compile")
    parser.add_argument("--max-num-batched-tokens", type=int, help="the same")
    parser.add_argument("--tensor-parallel-size", type=int, help="devices; all that there are")
    parser.add_argument("--compilation-cache-dir", default=default_cache_dir())
    options = parser.parse_args()
    file = open_gguf(options.model)
    num_devices = options.tensor_parallel_size or jax.device_count()
    print(f"{num_devices} × {jax.devices()[0].device_kind}")
    for dtype in options.dtypes:
        config = RuntimeConfig(
            str(options.model),
            dtype=dtype,
            max_model_len=options.max_model_len,
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=options.max_num_batched_tokens,
            enable_prefix_caching=False,
            tensor_parallel_size=options.tensor_parallel_size,
            compilation_cache_dir=options.compilation_cache_dir,
        )
        engine = start_engine(config, file, [], report=print_report)
        for length in options.prefill:
            seconds = prefill_seconds(engine, length, options.rounds)
            show(dtype, f"prefill {length}", seconds, length)
        for batch, length in options.decode:
            seconds, context = decode_seconds(engine, batch, length)
            show(dtype, f"decode {batch} × {context}", seconds, batch)
        del engine


def show(dtype: str, what: str, seconds: float, num_tokens: int) -> None:
    """One line of the table."""
    rate = num_tokens / seconds
    print(f"{dtype:10}{what:>20}{seconds * 1e3:10.3f} ms{rate:12,.1f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
