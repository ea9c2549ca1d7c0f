"""An engine with its steps written down, and the two loads that profiles are taken of."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from models import demo
from models.config import ModelConfig, model_config
from models.gguf_file import open_gguf
from profiling.work import Sizes, Step, read_step, weight_bytes
from runtime.compile_log import CompileLog
from runtime.config import RuntimeConfig
from runtime.engine import Engine, Runner
from runtime.model_runner import ModelRunner, PendingStep
from runtime.request import SamplingParams
from runtime.start import start_engine
from runtime.step_input import StepInput
from runtime.step_plan import SampledToken, StepPlan

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "int8": 4}  # with int8 weights activations are float32


@dataclass
class Recorder:
    """A runner that writes down what it is given."""

    runner: Runner
    steps: list[StepInput] = field(default_factory=list)

    def start(self, step: StepInput) -> PendingStep:
        """Of `runner`."""
        self.steps.append(step)
        return self.runner.start(step)

    def read(self, plan: StepPlan, step: PendingStep) -> list[SampledToken]:
        """Of `runner`."""
        return self.runner.read(plan, step)


@dataclass(frozen=True)
class Measured:
    """Steps that were run: their sizes, and seconds from the end of one to the end of the next."""

    steps: list[Step]
    seconds: list[float]


class Workload:
    """A loaded model under synthetic requests: random tokens, greedy answers, no shared prefixes.

    Args:
        model: path of a GGUF file, or "demo".
        batch: requests that decode together.
        context: tokens of each prompt.
        steps: how many decode steps `decode` will run in all.
        options: more fields of `runtime.config.RuntimeConfig`.

    Raises:
        ModelFileError: the file is broken or not supported.
        ValueError: the load does not fit the model or the memory.
    """

    def __init__(
        self,
        model: str,
        *,
        batch: int,
        context: int,
        steps: int,
        report: Callable[[str], None] = lambda _: None,
        **options: Any,
    ):
        if batch < 1 or context < 1:
            raise ValueError(f"batch and context must be at least 1, got {batch} and {context}")
        file = open_gguf(demo_path(model))
        self.config: ModelConfig = model_config(file)
        self.batch, self.context = batch, context
        # while the last prompts are read the first requests answer: a step each at most
        self._answer = steps + 8 + batch * (-(-context // 64) + 1)
        config = RuntimeConfig(
            str(file.path),
            max_model_len=context + self._answer,
            max_num_seqs=batch,
            enable_prefix_caching=False,
            **options,
        )
        self.log = CompileLog()
        self.engine: Engine = start_engine(
            config, file, [], report=lambda stage, text, fraction: report(text), log=self.log
        )
        self.runner = cast(ModelRunner, self.engine.runner)
        self._recorder = Recorder(self.runner)
        self.engine.runner = self._recorder
        room = self.engine.info.kv_tokens
        if room < batch * (context + self._answer):
            raise ValueError(
                f"{batch} requests of {context} + {self._answer} tokens need "
                f"{batch * (context + self._answer)} tokens of KV cache, and {room} fit"
            )
        self._rng = np.random.default_rng(0)
        self._next_id = 0

    @property
    def sizes(self) -> Sizes:
        """What a step's work follows from."""
        info = self.engine.info
        return Sizes(
            weights=weight_bytes([self.runner.decoder, self.runner.head]),
            activation=ITEM_BYTES[info.dtype],
            kv=self.runner.kv_dtype.itemsize,
            num_devices=info.tensor_parallel_size,
        )

    def prefill(self, prompts: int) -> Measured:
        """Fresh prompts together, each answered by one token."""
        self._add(prompts, 1)
        return self._run(lambda: self.engine.has_work)

    def start_decode(self) -> None:
        """Fills the batch, until every request of it decodes."""
        self._add(self.batch, self._answer)
        while True:
            self.engine.step()
            last = self._recorder.steps[-1]
            if not last.bucket.num_blocks and last.num_rows >= self.batch:
                return

    def decode(self, steps: int) -> Measured:
        """So many steps of the batch."""
        left = iter(range(steps))
        return self._run(lambda: next(left, None) is not None)

    def end_decode(self) -> None:
        """Ends the batch."""
        for request_id in range(self._next_id):
            self.engine.abort(request_id)
        while self.engine.has_work:
            self.engine.step()

    def _add(self, count: int, max_tokens: int) -> None:
        params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        for _ in range(count):
            prompt = self._rng.integers(0, self.config.vocab_size, self.context).tolist()
            self.engine.add(self._next_id, prompt, params)
            self._next_id += 1

    def _run(self, go_on: Callable[[], bool]) -> Measured:
        self._recorder.steps.clear()
        self.runner.wait()
        times = [time.perf_counter()]
        while go_on():
            self.engine.step()
            times.append(time.perf_counter())
        self.runner.wait()
        times[-1] = time.perf_counter()
        steps = [read_step(step, self.engine.shape) for step in self._recorder.steps]
        return Measured(steps, np.diff(times).tolist())


def demo_path(model: str) -> Path:
    """The path that a model's name stands for."""
    return demo.PATH if model == demo.NAME else Path(model)
