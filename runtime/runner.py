"""What the engine needs of a model."""

from typing import Protocol

import numpy as np

from runtime.experiments.instrumented import Hidden
from runtime.model_runner import PendingStep, StepResult
from runtime.step_input import StepInput
from runtime.step_plan import StepPlan


class Runner(Protocol):
    """What the engine needs of a model: `runtime.model_runner.ModelRunner`, or a stand-in."""

    def forward(self, step: StepInput) -> Hidden: ...

    def sample(
        self, step: StepInput, hidden: Hidden, masks: np.ndarray | None = None
    ) -> PendingStep: ...

    def read(self, plan: StepPlan, step: PendingStep) -> StepResult: ...
