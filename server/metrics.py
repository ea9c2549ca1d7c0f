"""What Prometheus reads: vLLM's names where the meaning is the same, ours where there is none."""

from collections.abc import Iterable, Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.lifecycle import Lifecycle

SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
           20, 40, 80, 160, 640)  # fmt: skip
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15,
                 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)  # fmt: skip

# name: (field of Stats, help)
GAUGES = {
    "vllm:num_requests_running": ("num_running", "Requests in the running batch."),
    "vllm:num_requests_waiting": ("num_waiting", "Requests waiting to be scheduled."),
}
COUNTERS = {
    "vllm:prompt_tokens": ("prompt_tokens", "Prompt tokens processed."),
    "vllm:generation_tokens": ("generation_tokens", "Tokens generated."),
    "vllm:prefix_cache_queries": ("prefix_queries", "Prompt tokens looked up in the cache."),
    "vllm:prefix_cache_hits": ("prefix_hits", "Prompt tokens found in the prefix cache."),
    "vllm:num_preemptions": ("preemptions", "Requests put back for want of pages."),
    "ggjax:steps": ("steps", "Steps of the device."),
    "ggjax:compilations": ("compilations", "Programs compiled since the server was ready."),
    "ggjax:padding_tokens": ("padding_tokens", "Token slots of steps that held no token."),
    "ggjax:step_seconds": ("step_seconds", "Seconds spent in steps."),
}


class Metrics:
    """The histograms and counters that requests write, and what the engine says of itself."""

    def __init__(self, lifecycle: Lifecycle, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(lifecycle, model_name))

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(name, text, ["model_name"], registry=self.registry, buckets=buckets)
            return made.labels(model_name)

        self.time_to_first_token = histogram(
            "vllm:time_to_first_token_seconds", "From arrival to the first token.", SECONDS
        )
        self.inter_token_latency = histogram(
            "vllm:inter_token_latency_seconds", "Between tokens of one request.", TOKEN_SECONDS
        )
        self.e2e_request_latency = histogram(
            "vllm:e2e_request_latency_seconds", "From arrival to the last token.", SECONDS
        )
        self._request_success = Counter(
            "vllm:request_success",
            "Finished answers.",
            ["model_name", "finished_reason"],
            registry=self.registry,
        )
        self._rejected = Counter(
            "ggjax:rejected_requests",
            "Requests answered with an error.",
            ["model_name", "code"],
            registry=self.registry,
        )
        self._model_name = model_name

    def finished(self, reason: str) -> None:
        """Counts an answer that has ended."""
        self._request_success.labels(self._model_name, reason).inc()

    def rejected(self, code: str) -> None:
        """Counts an error; codes are a fixed set, whatever clients send."""
        self._rejected.labels(self._model_name, code).inc()


class EngineCollector(Collector):
    """The engine's own figures, read when they are asked for and not at every step."""

    def __init__(self, lifecycle: Lifecycle, model_name: str) -> None:
        self._lifecycle = lifecycle
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        model = self._lifecycle.model
        if model is None:
            return
        stats = model.engine.stats
        yield from self._families(GaugeMetricFamily, GAUGES.items(), stats)
        yield from self._families(CounterMetricFamily, COUNTERS.items(), stats)
        usage = GaugeMetricFamily(
            "vllm:kv_cache_usage_perc", "Share of the KV pages in use.", labels=["model_name"]
        )
        usage.add_metric(
            [self._model_name], stats.num_used_pages / max(1, model.info.num_pages - 1)
        )
        yield usage

    def _families(
        self,
        family: type[GaugeMetricFamily] | type[CounterMetricFamily],
        rows: Iterable[tuple[str, tuple[str, str]]],
        stats: object,
    ) -> Iterator[Metric]:
        for name, (field, text) in rows:
            made = family(name, text, labels=["model_name"])
            made.add_metric([self._model_name], getattr(stats, field))
            yield made


METRICS = web.AppKey("metrics", Metrics)
