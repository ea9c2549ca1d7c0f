"""Tokens a second of the engine alone: one prompt of 512 tokens, and decoding answers together.

python -m benchmarks.speed MODEL [--dtypes float32 bfloat16 int8]
"""

import argparse
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from models.config import model_config
from models.gguf_file import open_gguf
from runtime.compile_log import CompileLog
from runtime.config import RuntimeConfig
from runtime.engine import Engine
from runtime.request import SamplingParams
from runtime.start import start_engine

PROMPT = 512
DECODED = 24


def prefill_rate(engine: Engine, vocab_size: int, rounds: int) -> float:
    """Median tokens a second of fresh prompts, each answered by one token."""
    rng = np.random.default_rng(0)
    rates = []
    for i in range(rounds):
        prompt = rng.integers(0, vocab_size, PROMPT).tolist()
        begin = time.monotonic()
        run(engine, [prompt], 1, first_id=1000 + i)
        rates.append(PROMPT / (time.monotonic() - begin))
    return statistics.median(rates)


def decode_rate(engine: Engine, vocab_size: int, batch: int) -> float:
    """Tokens a second of `batch` answers together, by the median step."""
    rng = np.random.default_rng(batch)
    prompts = [rng.integers(0, vocab_size, 16).tolist() for _ in range(batch)]
    times = run(engine, prompts, DECODED, first_id=2000 + 100 * batch)
    return batch / statistics.median(np.diff(times[2:-1]).tolist())


def run(engine: Engine, prompts: list[list[int]], max_tokens: int, first_id: int) -> list[float]:
    """Answers greedily; when each step ended."""
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    for i, prompt in enumerate(prompts):
        engine.add(first_id + i, prompt, params)
    times = []
    while engine.has_work:
        engine.step()
        times.append(time.monotonic())
    return times


def print_report(stage: str, text: str, fraction: float | None) -> None:
    """The lines of a start, without its progress."""
    if fraction in (None, 0.0, 1.0):
        print(f"  {stage}: {text}", flush=True)


def main() -> None:
    """Prints a line for each form of the weights, all measured in one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "int8"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compilation-cache-dir")
    options = parser.parse_args()
    file = open_gguf(options.model)
    vocab_size = model_config(file).vocab_size
    log = CompileLog()
    print(f"{jax.device_count()} × {jax.devices()[0].device_kind}")
    columns = "".join(f"{f'decode {batch}':>12}" for batch in options.batches)
    print(f"{'weights':10}{'prefill 512':>12}{columns}   tokens/s")
    for dtype in options.dtypes:
        config = RuntimeConfig(
            str(options.model),
            dtype=dtype,
            max_model_len=1024,
            compilation_cache_dir=options.compilation_cache_dir,
        )
        engine = start_engine(config, file, [], report=print_report, log=log)
        rates = [prefill_rate(engine, vocab_size, options.rounds)]
        rates += [decode_rate(engine, vocab_size, batch) for batch in options.batches]
        print(f"{dtype:10}" + "".join(f"{rate:12.1f}" for rate in rates), flush=True)
        del engine


if __name__ == "__main__":
    main()
