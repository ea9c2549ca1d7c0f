"""`ggjax bench latency` and `throughput`: the engine in this process."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_flags import ENGINE_FLAGS
from benchmarks.samples import make_samples
from ggjax import LLM, SamplingParams

PERCENTILES = (10, 25, 50, 75, 90, 99)


def bench_latency(options: argparse.Namespace) -> None:
    """Seconds of one batch, from the prompts to the last token, several times.

    Raises:
        ValueError: a number is out of range, or does not fit the model.
    """
    if min(options.input_len, options.output_len, options.batch_size, options.num_iters) < 1:
        raise ValueError("input-len, output-len, batch-size and num-iters must be at least 1")
    rng = np.random.default_rng(options.seed)
    params = _params(options, options.output_len)
    with _open(options) as llm:
        prompts = rng.integers(
            0, llm.info.vocab_size, (options.batch_size, options.input_len)
        ).tolist()
        latencies = []
        for i in range(options.num_iters_warmup + options.num_iters):
            begin = time.perf_counter()
            llm.generate(prompts, params)
            if i >= options.num_iters_warmup:
                latencies.append(time.perf_counter() - begin)
    percentiles = np.percentile(latencies, PERCENTILES).tolist()
    result = {
        "avg_latency": float(np.mean(latencies)),
        "std_latency": float(np.std(latencies)),
        "latencies": latencies,
        "percentiles": dict(zip(map(str, PERCENTILES), percentiles, strict=True)),
    }
    print(f"Avg latency: {result['avg_latency']:.4f} seconds, std {result['std_latency']:.4f}")
    for percentile, seconds in zip(PERCENTILES, percentiles, strict=True):
        print(f"{percentile}% percentile latency: {seconds:.4f} seconds")
    _save(options.output_json, result)


def bench_throughput(options: argparse.Namespace) -> None:
    """Requests and tokens a second of many requests given at once.

    Raises:
        ValueError: a number is out of range, or does not fit the model.
    """
    with _open(options) as llm:
        samples = make_samples(
            options,
            options.num_prompts,
            vocab_size=llm.info.vocab_size,
            tokenize=lambda texts: [llm.tokenize(text) for text in texts],
        )
        prompts = [sample.prompt for sample in samples]
        params = [_params(options, sample.output_len) for sample in samples]
        begin = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=sys.stderr.isatty())
        elapsed = time.perf_counter() - begin
    answered = sum(len(choice.token_ids) for output in outputs for choice in output.outputs)
    total = answered + sum(len(output.prompt_token_ids) for output in outputs)
    result = {
        "elapsed_time": elapsed,
        "num_requests": len(outputs),
        "total_num_tokens": total,
        "total_output_tokens": answered,
        "requests_per_second": len(outputs) / elapsed,
        "tokens_per_second": total / elapsed,
        "output_tokens_per_second": answered / elapsed,
    }
    print(
        f"Throughput: {result['requests_per_second']:.2f} requests/s, "
        f"{result['tokens_per_second']:.2f} total tokens/s, "
        f"{result['output_tokens_per_second']:.2f} output tokens/s"
    )
    _save(options.output_json, result)


def _open(options: argparse.Namespace) -> LLM:
    return LLM(
        options.model,
        report=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
        enable_prefix_caching=options.enable_prefix_caching,
        seed=options.seed,
        **{name: getattr(options, name) for name in ENGINE_FLAGS},
    )


def _params(options: argparse.Namespace, output_len: int) -> SamplingParams:
    return SamplingParams(
        n=options.n, temperature=options.temperature, max_tokens=output_len, ignore_eos=True
    )


def _save(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(result, indent=4) + "\n")
