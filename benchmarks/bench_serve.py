"""`ggjax bench serve`: loads on a server that runs, one after the other."""

import argparse
import datetime
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.arrivals import arrival_offsets
from benchmarks.load_client import Outcome
from benchmarks.load_metrics import (
    METRICS,
    detailed,
    load_metrics,
    parse_goodput,
    parse_metrics,
    parse_percentiles,
    percentile_word,
)
from benchmarks.load_report import load_page
from benchmarks.load_workers import Job, run_load
from benchmarks.samples import make_samples
from benchmarks.target import ENDPOINTS, Target

WIDTH = 50
FIGURES = (
    ("Successful requests:", "completed"),
    ("Failed requests:", "failed"),
    ("Maximum request concurrency:", "max_concurrency"),
    ("Benchmark duration (s):", "duration"),
    ("Total input tokens:", "total_input_tokens"),
    ("Total generated tokens:", "total_output_tokens"),
    ("Request throughput (req/s):", "request_throughput"),
    ("Request goodput (req/s):", "request_goodput"),
    ("Output token throughput (tok/s):", "output_throughput"),
    ("Peak output token throughput (tok/s):", "max_output_tokens_per_s"),
    ("Peak concurrent requests:", "max_concurrent_requests"),
    ("Total token throughput (tok/s):", "total_token_throughput"),
)


def bench_serve(options: argparse.Namespace) -> int:
    """Runs the loads, prints and saves their figures; 1 if a request failed.

    Raises:
        ValueError: an option is wrong, or there is no server.
    """
    metrics = parse_metrics(options.percentile_metrics)
    percentiles = parse_percentiles(options.metric_percentiles)
    goodput = parse_goodput(options.goodput)
    metadata = _pairs(options.metadata, "metadata")
    levels = _levels(options)
    target = Target(
        options.base_url or f"http://{options.host}:{options.port}",
        model=options.served_model_name or options.model,
        headers=_pairs(options.header, "header"),
        wait=options.ready_check_timeout_sec,
    )
    results = []
    for max_concurrency, num_prompts in levels:
        outcomes, duration = _run(options, target, max_concurrency, num_prompts)
        result = {
            "date": datetime.datetime.now().strftime("%Y%m%d-%H%M%S"),
            "backend": options.backend,
            "label": options.label,
            "model_id": options.model or target.model,
            "num_prompts": num_prompts,
            "request_rate": "inf" if math.isinf(options.request_rate) else options.request_rate,
            "burstiness": options.burstiness,
            "max_concurrency": max_concurrency,
            **metadata,
            **load_metrics(
                outcomes, duration, metrics=metrics, percentiles=percentiles, goodput=goodput
            ),
        }
        print(_text(result, metrics, percentiles), flush=True)
        for error in sorted({outcome.error for outcome in outcomes if outcome.error})[:5]:
            sys.stderr.write(f"a request failed: {error}\n")
        if options.save_result or options.save_detailed:
            saved = result | (detailed(outcomes) if options.save_detailed else {})
            path = _result_path(options, result, several=len(levels) > 1)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(saved) + "\n")
        results.append(result)
    if options.report:
        options.report.write_text(load_page(results))
    return int(any(result["failed"] for result in results))


def _run(
    options: argparse.Namespace, target: Target, max_concurrency: int | None, num_prompts: int
) -> tuple[list[Outcome], float]:
    """What became of each request, and seconds from the first to the last answer's end."""
    vocab_size = options.vocab_size or target.vocab_size
    samples = make_samples(
        options,
        num_prompts + options.num_warmups,
        vocab_size=vocab_size,
        tokenize=target.tokenize,
    )
    offsets = arrival_offsets(
        num_prompts, rate=options.request_rate, burstiness=options.burstiness, seed=options.seed
    )
    warm_offsets = [0.0] * options.num_warmups
    requests = target.plan(
        samples, warm_offsets + offsets, backend=options.backend, options=_body_options(options)
    )

    def run(some: list[Any]) -> list[Outcome]:
        job = Job(
            url=target.base_url + (options.endpoint or ENDPOINTS[options.backend]),
            headers=target.headers,
            requests=some,
            max_concurrency=max_concurrency,
            keep_text=options.save_detailed,
        )
        return run_load(job, options.workers)

    if options.num_warmups:
        run(requests[: options.num_warmups])
    outcomes = run(requests[options.num_warmups :])
    first = min(outcome.start for outcome in outcomes)
    return outcomes, max(outcome.start + outcome.latency for outcome in outcomes) - first


def _levels(options: argparse.Namespace) -> list[tuple[int | None, int]]:
    """Concurrency and number of requests of each load."""
    concurrencies: list[int | None] = options.max_concurrency or [None]
    counts: list[int] = options.num_prompts
    if len(counts) == 1:
        counts = counts * len(concurrencies)
    if len(counts) != len(concurrencies):
        raise ValueError(
            f"num-prompts needs one number, or one for each of the {len(concurrencies)} "
            f"max-concurrency, got {len(counts)}"
        )
    if any(limit is not None and limit < 1 for limit in concurrencies):
        raise ValueError(f"max-concurrency must be at least 1, got {concurrencies}")
    if options.num_warmups < 0:
        raise ValueError(f"num-warmups must not be negative, got {options.num_warmups}")
    return list(zip(concurrencies, counts, strict=True))


def _body_options(options: argparse.Namespace) -> dict[str, Any]:
    asked = {name: getattr(options, name) for name in ("temperature", "top_p", "top_k")}
    body = {name: value for name, value in asked.items() if value is not None}
    return body | ({"ignore_eos": True} if options.ignore_eos else {})


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise ValueError(f"{option} takes KEY=VALUE, got {text!r}")
        pairs[key] = value
    return pairs


def _text(result: dict[str, Any], metrics: Sequence[str], percentiles: Sequence[float]) -> str:
    """The block that vLLM prints."""

    def line(name: str, value: float) -> str:
        return f"{name:<40} {value if isinstance(value, int) else format(value, '.2f')}"

    lines = [" Serving Benchmark Result ".center(WIDTH, "=")]
    lines += [line(name, result[key]) for name, key in FIGURES if result[key] is not None]
    for metric in metrics:
        lines.append(METRICS[metric].center(WIDTH, "-"))
        lines.append(line(f"Mean {metric.upper()} (ms):", result[f"mean_{metric}_ms"]))
        lines.append(line(f"Median {metric.upper()} (ms):", result[f"median_{metric}_ms"]))
        for percentile in percentiles:
            word = percentile_word(percentile)
            lines.append(line(f"P{word} {metric.upper()} (ms):", result[f"p{word}_{metric}_ms"]))
    return "\n".join([*lines, "=" * WIDTH])


def _result_path(options: argparse.Namespace, result: dict[str, Any], *, several: bool) -> Path:
    limit = result["max_concurrency"]
    directory: Path = options.result_dir
    if options.result_filename:
        path = directory / options.result_filename
        return path.with_stem(f"{path.stem}-concurrency{limit}") if several else path
    model = str(result["model_id"]).rsplit("/", 1)[-1]
    parts = [
        options.label or options.backend,
        f"{options.request_rate:g}qps",
        *([f"concurrency{limit}"] if limit else []),
        model,
        result["date"],
    ]
    return directory / f"{'-'.join(parts)}.json"
