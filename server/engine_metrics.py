"""The engine's figures for Prometheus: totals read when asked for, steps as they are done."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from runtime.messages import Stats
from server.lifecycle import Lifecycle

STEP_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.032, 0.05,
                0.1, 0.2, 0.5, 1, 5, 20)  # fmt: skip
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)

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
}


class EngineMetrics(Collector):
    """Registers itself; `observe_step` is to be told of every step."""

    def __init__(self, lifecycle: Lifecycle, model_name: str, registry: CollectorRegistry) -> None:
        self._lifecycle = lifecycle
        self._model_name = model_name
        self._before = Stats()
        registry.register(self)
        labels = ["model_name"]
        self._step_tokens = Histogram(
            "vllm:iteration_tokens_total", "Tokens of a step.", labels,
            registry=registry, buckets=STEP_TOKENS,
        ).labels(model_name)  # fmt: skip
        self._bucket_steps = Counter(
            "ggjax:bucket_steps", "Steps of each bucket.", [*labels, "bucket"], registry=registry
        )
        self._step_seconds = Histogram(
            "ggjax:step_seconds", "Seconds of a step, by bucket.", [*labels, "bucket"],
            registry=registry, buckets=STEP_SECONDS,
        )  # fmt: skip

    def observe_step(self, stats: Stats) -> None:
        """Takes the stats after a step; what it did is the difference from the last ones."""
        before, self._before = self._before, stats
        if stats.steps > before.steps:
            prompt = stats.prompt_tokens - before.prompt_tokens
            self._step_tokens.observe(prompt + stats.generation_tokens - before.generation_tokens)
        if stats.bucket:
            labels = (self._model_name, stats.bucket)
            self._bucket_steps.labels(*labels).inc()
            self._step_seconds.labels(*labels).observe(stats.step_seconds - before.step_seconds)

    def collect(self) -> Iterator[Metric]:
        model = self._lifecycle.model
        if model is None:
            return
        stats, info = model.engine.stats, model.info
        yield from self._families(GaugeMetricFamily, GAUGES.items(), stats)
        yield from self._families(CounterMetricFamily, COUNTERS.items(), stats)
        usage = GaugeMetricFamily(
            "vllm:kv_cache_usage_perc", "Share of the KV pages in use.", labels=["model_name"]
        )
        usage.add_metric([self._model_name], stats.num_used_pages / max(1, info.num_pages - 1))
        yield usage
        cache = GaugeMetricFamily(
            "vllm:cache_config_info",
            "Sizes of the KV cache.",
            labels=["model_name", "block_size", "num_gpu_blocks"],
        )
        cache.add_metric([self._model_name, str(info.page_size), str(info.num_pages - 1)], 1)
        yield cache

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
