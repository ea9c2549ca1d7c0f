"""A runner whose programs are called in a thread of their own, while the host plans and books.

A call for several GPUs takes the host 2 ms, most of them outside of Python: as long as the devices
need for a step of few tokens (docs/performance.md).
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import jax
import numpy as np

from runtime.experiments.instrumented import Hidden
from runtime.model_runner import ModelRunner, PendingStep, StepResult
from runtime.runner import Runner
from runtime.step_input import StepInput
from runtime.step_plan import StepPlan


class DispatchThread:
    """The calls of `runner`, in their order; what one raises, reading its step raises."""

    def __init__(self, runner: ModelRunner):
        self.runner = runner
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dispatch")

    def forward(self, step: StepInput) -> Future[Hidden]:
        """`ModelRunner.forward`, soon."""

        def run() -> Hidden:
            with jax.no_tracing():  # which holds for this thread alone
                return self.runner.forward(step)

        return self._thread.submit(run)

    def sample(
        self, step: StepInput, hidden: Future[Hidden], masks: np.ndarray | None = None
    ) -> Future[PendingStep]:
        """`ModelRunner.sample`, behind it."""

        def run() -> PendingStep:
            with jax.no_tracing():
                return self.runner.sample(step, hidden.result(), masks)

        return self._thread.submit(run)

    def read(self, plan: StepPlan, step: Future[PendingStep]) -> StepResult:
        """`ModelRunner.read`, here."""
        return self.runner.read(plan, step.result())

    def wait(self) -> None:
        """Until all that was called has ended on the devices."""
        self._thread.submit(self.runner.wait).result()


def model_runner(runner: Runner[Any, Any]) -> ModelRunner:
    """The one behind an engine's runner, which has the programs."""
    return runner.runner if isinstance(runner, DispatchThread) else cast(ModelRunner, runner)
