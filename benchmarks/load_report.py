"""A page with latency and throughput against the load on a server."""

from collections.abc import Sequence
from typing import Any

from benchmarks.load_metrics import METRICS
from profiling.page import line_plot, page, paragraph, side_by_side, table
from profiling.table import number

COLUMNS = (
    ("completed", "completed"),
    ("failed", "failed"),
    ("requests/s", "request_throughput"),
    ("output tokens/s", "output_throughput"),
    ("all tokens/s", "total_token_throughput"),
)


def load_page(results: Sequence[dict[str, Any]]) -> str:
    """The page of some loads, by their concurrency; the figures as `load_metrics` gives them."""
    ordered = sorted(results, key=_load)
    first = ordered[0]
    kinds = [metric for metric in METRICS if f"median_{metric}_ms" in first]
    plots = [
        line_plot(
            METRICS[metric],
            {
                word.rsplit("_", 2)[0]: [(_load(result), result[word]) for result in ordered]
                for word in _times(first, metric)
            },
            x_label="requests at once",
            y_label="ms",
            log_x=True,
        )
        for metric in kinds
    ]
    plots.append(
        line_plot(
            "Throughput",
            {"output tokens/s": [(_load(r), r["output_throughput"]) for r in ordered]},
            x_label="requests at once",
            y_label="tokens/s",
            log_x=True,
        )
    )
    if "tpot" in kinds:
        plots.append(
            line_plot(
                "What a user waits for what the server gives",
                {"": [(r["output_throughput"], r["median_tpot_ms"]) for r in ordered]},
                x_label="output tokens/s",
                y_label="median TPOT, ms",
            )
        )
    times = [word for metric in kinds for word in _times(first, metric)]
    rows = [
        [
            str(_load(result)),
            *(number(result[key], digits=4) for _, key in COLUMNS),
            *(number(result[word], digits=4) for word in times),
        ]
        for result in ordered
    ]
    header = [
        "at once",
        *(name for name, _ in COLUMNS),
        *(word.removesuffix("_ms") for word in times),
    ]
    about = (
        f"{first['model_id']}, {first['backend']}, {first['date']}; "
        f"request rate {first['request_rate']}. Times in milliseconds."
    )
    title = f"Load on {first['model_id']}"
    return page(title, [paragraph(about), side_by_side(*plots), table(header, rows)])


def _times(result: dict[str, Any], metric: str) -> list[str]:
    """Fields of a metric that are drawn: the mean, the median, the percentiles."""
    return [
        word
        for word in result
        if word.endswith(f"_{metric}_ms")
        and not word.startswith(("std_", "p50_"))  # which is the median
    ]


def _load(result: dict[str, Any]) -> int:
    """Requests at once: the limit, or what there was without one."""
    load: int = result["max_concurrency"] or result["max_concurrent_requests"]
    return load
