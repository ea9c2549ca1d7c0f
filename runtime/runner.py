"""What the engine needs of a model."""

from typing import Protocol

import numpy as np

from runtime.model_runner import StepResult
from runtime.step_input import StepInput
from runtime.step_plan import StepPlan


class Runner[Forwarded, Started](Protocol):
    """What the engine needs of a model: `runtime.model_runner.ModelRunner`, or a stand-in.

    What `forward` and `sample` give is for the other two alone.
    """

    def forward(self, step: StepInput) -> Forwarded: ...

    def sample(
        self, step: StepInput, hidden: Forwarded, masks: np.ndarray | None = None
    ) -> Started: ...

    def read(self, plan: StepPlan, step: Started) -> StepResult: ...
