"""What Prometheus reads: vLLM's names where the meaning is the same, ours where there is none."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram

from server.engine_metrics import EngineMetrics
from server.lifecycle import Lifecycle

SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
           20, 40, 80, 160, 640)  # fmt: skip
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15,
                 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)  # fmt: skip
COUNTS = tuple(digit * 10**power for power in range(5) for digit in (1, 2, 5))
CHOICES = (1, 2, 5, 10, 20, 50, 128)

# of finished answers. Name: (help, buckets)
ANSWER_HISTOGRAMS: dict[str, tuple[str, Sequence[float]]] = {
    "e2e_request_latency_seconds": ("From arrival to the last token.", SECONDS),
    "request_queue_time_seconds": ("From arrival to the first step.", SECONDS),
    "request_prefill_time_seconds": ("From the first step to the first token.", SECONDS),
    "request_decode_time_seconds": ("From the first token to the last.", SECONDS),
    "request_inference_time_seconds": ("From the first step to the last token.", SECONDS),
    "request_time_per_output_token_seconds": ("Mean between tokens.", TOKEN_SECONDS),
    "request_prompt_tokens": ("Tokens of the prompt.", COUNTS),
    "request_generation_tokens": ("Tokens of the answer.", COUNTS),
    "request_max_num_generation_tokens": ("Longest of a call's answers.", COUNTS),
    "request_params_max_tokens": ("max_tokens of the request.", COUNTS),
    "request_params_n": ("n of the request.", CHOICES),
}
METHODS = frozenset({"GET", "HEAD", "POST"})


@dataclass(frozen=True)
class FinishedAnswer:
    """One answer that has ended; times are by `time.monotonic`.

    Attributes:
        begun: when it left the engine's queue; None where the engine did not say.
        max_tokens: what the request asked for; None for all that fits.
    """

    reason: str
    arrival: float
    begun: float | None
    first_token: float
    last_token: float
    num_prompt: int
    num_output: int
    max_tokens: int | None = None
    n: int = 1


class Metrics:
    """The histograms and counters that requests write, and what the engine says of itself."""

    def __init__(self, lifecycle: Lifecycle, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.engine = EngineMetrics(lifecycle, model_name, self.registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            made = Histogram(
                f"vllm:{name}", text, ["model_name"], registry=self.registry, buckets=buckets
            )
            return made.labels(model_name)

        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", SECONDS
        )
        self.inter_token_latency = histogram(
            "inter_token_latency_seconds", "Between tokens of one request.", TOKEN_SECONDS
        )
        self._of_answers = {
            name: histogram(name, text, buckets)
            for name, (text, buckets) in ANSWER_HISTOGRAMS.items()
        }
        self._request_success = self._counter(
            "vllm:request_success", "Finished answers.", "model_name", "finished_reason"
        )
        self._rejected = self._counter(
            "ggjax:rejected_requests", "Requests answered with an error.", "model_name", "code"
        )
        self._http_requests = self._counter(
            "http_requests", "Answers over HTTP.", "method", "handler", "status"
        )
        self._model_name = model_name

    def aborted(self) -> None:
        """Counts an answer that nobody waited for."""
        self._request_success.labels(self._model_name, "abort").inc()

    def finished(self, answer: FinishedAnswer) -> None:
        """Takes an answer that has ended."""
        self._request_success.labels(self._model_name, answer.reason).inc()
        decode = answer.last_token - answer.first_token
        values: dict[str, float | None] = {
            "e2e_request_latency_seconds": answer.last_token - answer.arrival,
            "request_decode_time_seconds": decode,
            "request_prompt_tokens": answer.num_prompt,
            "request_generation_tokens": answer.num_output,
            "request_max_num_generation_tokens": answer.num_output,
            "request_params_max_tokens": answer.max_tokens,
            "request_params_n": answer.n,
        }
        if answer.num_output > 1:
            values["request_time_per_output_token_seconds"] = decode / (answer.num_output - 1)
        if answer.begun is not None:
            values["request_queue_time_seconds"] = answer.begun - answer.arrival
            values["request_prefill_time_seconds"] = answer.first_token - answer.begun
            values["request_inference_time_seconds"] = answer.last_token - answer.begun
        for name, value in values.items():
            if value is not None:
                self._of_answers[name].observe(value)

    def rejected(self, code: str) -> None:
        """Counts an error; codes are a fixed set, whatever clients send."""
        self._rejected.labels(self._model_name, code).inc()

    def answered(self, method: str, path: str, status: int) -> None:
        """Counts a response; `path` as the router has it."""
        method = method if method in METHODS else "other"
        self._http_requests.labels(method, path, f"{status // 100}xx").inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)


METRICS = web.AppKey("metrics", Metrics)
