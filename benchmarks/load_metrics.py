"""Figures of a load on a server, in the fields of vLLM's result files."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.load_client import Outcome

METRICS = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}
GOODPUT_METRICS = ("ttft", "tpot", "e2el")


def load_metrics(
    outcomes: Sequence[Outcome],
    duration: float,
    *,
    metrics: Sequence[str],
    percentiles: Sequence[float],
    goodput: Mapping[str, float],
) -> dict[str, Any]:
    """The figures of one load.

    TPOT is (latency - TTFT) / (tokens - 1), of answers of two tokens and more. Failed requests
    count as failed and for nothing else.

    Args:
        duration: seconds from the first request to the last answer.
        metrics: which of METRICS to give.
        percentiles: of each, in [0, 100].
        goodput: the most milliseconds that a good request takes, by metric.
    """
    good = [outcome for outcome in outcomes if not outcome.error]
    tpots = {id(o): (o.latency - o.ttft) / (o.output_len - 1) for o in good if o.output_len > 1}
    values: dict[str, list[float]] = {
        "ttft": [o.ttft for o in good],
        "tpot": list(tpots.values()),
        "itl": [gap for o in good for gap in o.itl],
        "e2el": [o.latency for o in good],
    }
    met = [
        o
        for o in good
        if all(
            1e3 * {"ttft": o.ttft, "tpot": tpots.get(id(o), 0.0), "e2el": o.latency}[name] <= limit
            for name, limit in goodput.items()
        )
    ]
    inputs, outputs = sum(o.prompt_len for o in good), sum(o.output_len for o in good)
    result: dict[str, Any] = {
        "duration": duration,
        "completed": len(good),
        "failed": len(outcomes) - len(good),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(good) / duration,
        "request_goodput": len(met) / duration if goodput else None,
        "output_throughput": outputs / duration,
        "total_token_throughput": (inputs + outputs) / duration,
        "max_output_tokens_per_s": _peak_tokens(good),
        "max_concurrent_requests": _peak_requests(outcomes),
    }
    for name in metrics:
        result |= _statistics(name, values[name], percentiles)
    return result


def detailed(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The fields of `--save-detailed`: a list entry for each request."""
    return {
        "input_lens": [o.prompt_len for o in outcomes],
        "output_lens": [o.output_len for o in outcomes],
        "ttfts": [o.ttft for o in outcomes],
        "itls": [o.itl for o in outcomes],
        "latencies": [o.latency for o in outcomes],
        "start_times": [o.start for o in outcomes],
        "generated_texts": [o.text for o in outcomes],
        "errors": [o.error for o in outcomes],
    }


def percentile_word(percentile: float) -> str:
    """99 or 99.9, as field names have it."""
    return f"{percentile:g}"


def parse_goodput(pairs: Sequence[str]) -> dict[str, float]:
    """`ttft:200 tpot:20`, in milliseconds.

    Raises:
        ValueError: a pair is not of that form, or names another metric.
    """
    limits = {}
    for pair in pairs:
        name, _, value = pair.partition(":")
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = math.nan
        if name not in GOODPUT_METRICS or not limits[name] >= 0:
            raise ValueError(
                f"goodput takes {', '.join(f'{m}:MS' for m in GOODPUT_METRICS)}, got {pair!r}"
            )
    return limits


def parse_metrics(text: str) -> list[str]:
    """`ttft,tpot,itl`.

    Raises:
        ValueError: a name is none of METRICS.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in METRICS:
            raise ValueError(f"percentile-metrics are {', '.join(METRICS)}, got {name!r}")
    return names


def parse_percentiles(text: str) -> list[float]:
    """`50,99,99.9`.

    Raises:
        ValueError: one is not in [0, 100].
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(0 <= value <= 100 for value in values):
        raise ValueError(f"metric-percentiles lie in [0, 100], got {text!r}")
    return values


def _statistics(name: str, values: list[float], percentiles: Sequence[float]) -> dict[str, float]:
    times = 1e3 * np.array(values or [0.0])
    result = {
        f"mean_{name}_ms": float(times.mean()),
        f"median_{name}_ms": float(np.median(times)),
        f"std_{name}_ms": float(times.std()),
    }
    for percentile in percentiles:
        key = f"p{percentile_word(percentile)}_{name}_ms"
        result[key] = float(np.percentile(times, percentile))
    return result


def _peak_tokens(outcomes: Sequence[Outcome]) -> float:
    """Most events with text in a second of the clock."""
    times = [o.start + o.ttft + np.cumsum([0.0, *o.itl]) for o in outcomes if o.output_len]
    if not times:
        return 0.0
    seconds = np.concatenate(times)
    return float(np.bincount((seconds - seconds.min()).astype(np.int64)).max())


def _peak_requests(outcomes: Sequence[Outcome]) -> int:
    """Most requests at one time."""
    changes = [(o.start, 1) for o in outcomes] + [(o.start + o.latency, -1) for o in outcomes]
    running = np.cumsum([step for _, step in sorted(changes)])
    return int(running.max(initial=0))
