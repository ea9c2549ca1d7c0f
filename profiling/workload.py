"""An engine with its steps written down, and the two loads that profiles are taken of."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from models import demo
from models.config import PAGE_SIZE, ModelConfig, model_config
from models.gguf_file import open_gguf
from models.head_copies import on_devices
from models.kv_cache import BLOCK_Q
from profiling.work import Sizes, Step, read_step, weight_bytes
from runtime.buckets import Bucket
from runtime.config import RuntimeConfig
from runtime.dispatch_thread import DispatchThread, model_runner
from runtime.engine import Engine
from runtime.memory_plan import take_share
from runtime.model_runner import ModelRunner, StepResult
from runtime.request import SamplingParams
from runtime.runner import Runner
from runtime.start import DEFAULTS, start_engine
from runtime.step_input import StepInput
from runtime.step_plan import Limits, StepPlan

FIRST_STEPS = 4
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "int8": 4}  # with int8 weights activations are float32


@dataclass
class Recorder:
    """A runner that writes down what it is given."""

    runner: Runner[Any, Any]
    steps: list[StepInput] = field(default_factory=list)

    def forward(self, step: StepInput) -> Any:
        """Of `runner`."""
        self.steps.append(step)
        return self.runner.forward(step)

    def sample(self, step: StepInput, hidden: Any, masks: np.ndarray | None = None) -> Any:
        """Of `runner`."""
        return self.runner.sample(step, hidden, masks)

    def read(self, plan: StepPlan, step: Any) -> StepResult:
        """Of `runner`."""
        return self.runner.read(plan, step)


@dataclass(frozen=True)
class Measured:
    """Steps that were run: their sizes, and seconds from the end of one to the end of the next."""

    steps: list[Step]
    seconds: list[float]

    @property
    def step_seconds(self) -> float:
        """Mean time of a step."""
        return sum(self.seconds) / len(self.steps)


class Workload:
    """A loaded model under synthetic requests: random tokens, greedy answers, no shared prefixes.

    Args:
        model: path of a GGUF file, or "demo".
        batch: requests that decode together; None for as many as are served by default.
        context: tokens of each prompt.
        steps: how many decode steps `decode` will run in all.
        report: called with each line of progress, and with its stage: load or compile.
        options: more fields of `runtime.config.RuntimeConfig`.

    Raises:
        ModelFileError: the file is broken or not supported.
        ValueError: the load does not fit the model or the memory.
    """

    def __init__(
        self,
        model: str,
        *,
        batch: int | None,
        context: int,
        steps: int,
        report: Callable[[str, str], None] = lambda stage, text: None,
        **options: Any,
    ):
        take_share(RuntimeConfig.gpu_memory_utilization)
        defaults = DEFAULTS["cpu" if jax.default_backend() == "cpu" else "gpu"]
        batch = defaults.max_num_seqs if batch is None else batch
        if batch < 1 or context < 1:
            raise ValueError(f"batch and context must be at least 1, got {batch} and {context}")
        file = open_gguf(demo_path(model))
        in_file = model_config(file)
        self.batch, self.context = batch, context
        max_tokens = options.get("max_num_batched_tokens") or defaults.max_num_batched_tokens
        # while the last prompts are read the first requests answer
        self._answer = steps + 2 * FIRST_STEPS + reading_steps(batch, context, max_tokens)
        # as many prompts as run at once fill the largest bucket
        fill = -(-max_tokens // batch) + BLOCK_Q
        config = RuntimeConfig(
            str(file.path),
            max_model_len=max(context + self._answer, fill),
            max_num_seqs=batch,
            enable_prefix_caching=False,
            **options,
        )
        self.engine: Engine = start_engine(
            config,
            file,
            [],
            report=lambda stage, text, fraction: report(stage, text),
            in_two=False,  # a bucket's time is that of its program
        )
        self.config: ModelConfig = on_devices(in_file, self.engine.info.tensor_parallel_size)
        self.runner = model_runner(self.engine.runner)
        self._wait = cast(ModelRunner | DispatchThread, self.engine.runner).wait
        self._recorder = Recorder(self.engine.runner)
        self.engine.runner = self._recorder
        check_room(batch, context + self._answer, self.engine.info.kv_tokens)
        self._rng = np.random.default_rng(0)
        self._next_id = 0

    def programs(self) -> dict[str, Any]:
        """The compiled programs of a step, by the names of their modules."""
        made: list[Any] = [
            *self.runner.programs.forward.values(),
            *self.runner.programs.sample.values(),
        ]
        return {program.runtime_executable().hlo_modules()[0].name: program for program in made}

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
        self._add(prompts, 1, self.context)
        return self._run(lambda: self.engine.has_work)

    def start_decode(self) -> None:
        """Fills the batch, until every request of it decodes."""
        self._add(self.batch, self._answer, self.context)
        self._until_decoding(self.batch)

    def decode(self, steps: int, *, settle: bool = False) -> Measured:
        """So many steps of the batch, one after the other as they are served.

        Args:
            settle: nothing else runs on the device at their beginning and end, for a trace; a step
                then seems longer by its share of what starts and ends the row.
        """
        left = iter(range(steps))
        return self._run(lambda: next(left, None) is not None, settle=settle)

    def run_bucket(self, bucket: Bucket, steps: int) -> Measured | None:
        """Steps of one bucket: rows of `context` tokens, or prompts that fill its blocks.

        None: a prompt would be longer, or the prompts more, than fit.
        """
        if not bucket.num_blocks:
            self._add(bucket.num_tokens, self._answer, self.context)
            self._until_decoding(bucket.num_tokens)
            measured = self.decode(steps)
            self.end_decode()
            return measured
        longest = (self.engine.info.max_model_len - 1) // BLOCK_Q * BLOCK_Q
        prompts = -(-bucket.num_tokens // longest)
        if prompts > self.batch:
            return None
        runs = []
        for _ in range(1 + steps):
            for i in range(prompts):
                self._add(1, 1, min(longest, bucket.num_tokens - i * longest))
            runs.append(self._run(lambda: self.engine.has_work))
        counted = runs[1:]  # the first one records the graph of its shape
        return Measured(
            [step for run in counted for step in run.steps],
            [seconds for run in counted for seconds in run.seconds],
        )

    def end_decode(self) -> None:
        """Ends the batch."""
        for request_id in range(self._next_id):
            self.engine.abort(request_id)
        while self.engine.has_work:
            self.engine.step()

    def _until_decoding(self, rows: int) -> None:
        while self.engine.has_work:
            self.engine.step()
            last = self._recorder.steps[-1]
            if last.bucket.num_blocks:
                continue
            if len(read_step(last, self.engine.shape).contexts) == rows:
                break
        else:
            raise RuntimeError(f"some of {rows} requests ended before all of them decoded together")
        # the first steps of a shape record its graph, and take several times as long
        for _ in range(FIRST_STEPS):
            self.engine.step()

    def _add(self, count: int, max_tokens: int, length: int) -> None:
        params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        for _ in range(count):
            prompt = self._rng.integers(0, self.config.vocab_size, length).tolist()
            self.engine.add(self._next_id, prompt, params)
            self._next_id += 1

    def _run(self, go_on: Callable[[], bool], *, settle: bool = True) -> Measured:
        self._recorder.steps.clear()
        if settle:
            self._wait()
        times = [time.perf_counter()]
        while go_on():
            self.engine.step()  # returns when the step before has its results
            times.append(time.perf_counter())
        if settle:
            self._wait()
            times[-1] = time.perf_counter()
        steps = [read_step(step, self.engine.shape) for step in self._recorder.steps]
        return Measured(steps, np.diff(times).tolist())


def reading_steps(batch: int, context: int, max_tokens: int) -> int:
    """Steps at most in which the prompts of a batch are read, the first of it answering already.

    Args:
        max_tokens: of a step.
    """
    limits = Limits(batch, max_tokens // BLOCK_Q, BLOCK_Q, PAGE_SIZE, pages_per_request=1)
    for_prompts = limits.mixed_blocks - -(-batch // BLOCK_Q)
    return -(-batch * -(-context // BLOCK_Q) // max(1, for_prompts))


def check_room(batch: int, length: int, kv_tokens: int) -> None:
    """A batch of this length fits into the cache at once, so that nothing is preempted.

    Raises:
        ValueError: it does not; the message has the numbers.
    """
    if kv_tokens < batch * length:
        raise ValueError(
            f"{batch} requests of {length} tokens need {batch * length} tokens of KV cache, "
            f"and {kv_tokens} fit"
        )


def demo_path(model: str) -> Path:
    """The path that a model's name stands for."""
    return demo.PATH if model == demo.NAME else Path(model)
