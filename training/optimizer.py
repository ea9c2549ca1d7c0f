"""The optimizer and how its rate follows the clock: warm-up, constant, decay to zero."""

from dataclasses import dataclass

import optax  # type: ignore[import-untyped]
from optax.contrib import MuonDimensionNumbers, muon  # type: ignore[import-untyped]

from training.model import Params

WARM_UP_STEPS = 200
WARM_UP_SHARE = 0.05  # of the time, at most
DECAY_SHARE = 0.3  # of the time
ADAM_RATE = 3e-3
MUON_RATE = 0.02
WEIGHT_DECAY = 0.1
MAX_NORM = 1.0
BETAS = (0.9, 0.95)


def is_matrix(role: str) -> bool:
    """Whether a parameter maps activations to activations; the embedding is looked up."""
    return role.endswith(".weight") and "norm" not in role and role != "token_embd.weight"


def make_optimizer(kind: str, params: Params) -> optax.GradientTransformation:
    """AdamW for all, or Muon for the matrices and AdamW for the rest, at the full rate.

    Sources: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019; Jordan et al.,
    Muon: An optimizer for hidden layers in neural networks, 2024.
    """
    matrices = {role: is_matrix(role) for role in params}
    if kind == "adamw":
        chosen = optax.adamw(
            ADAM_RATE, b1=BETAS[0], b2=BETAS[1], weight_decay=WEIGHT_DECAY, mask=matrices
        )
    elif kind == "muon":
        # [L, out, in]: every layer's matrix for itself
        dimensions = MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)
        chosen = muon(
            MUON_RATE,
            weight_decay=WEIGHT_DECAY,
            adam_b1=BETAS[0],
            adam_b2=BETAS[1],
            adam_learning_rate=ADAM_RATE,
            muon_weight_dimension_numbers={
                role: dimensions if matrix else None for role, matrix in matrices.items()
            },
        )
    else:
        raise ValueError(f"optimizer must be adamw or muon, got {kind!r}")
    return optax.chain(optax.clip_by_global_norm(MAX_NORM), chosen)


@dataclass
class Schedule:
    """The share of the full rate that a step gets; decides by the clock when the decay begins.

    The number of steps is not known before: once the time for the constant part is over, the decay
    takes as many steps as fit into the rest at the speed seen so far.

    Attributes:
        seconds: that training may take, from its first step.
    """

    seconds: float
    decay_from: int | None = None
    decay_steps: int = 0

    def rate(self, step: int, elapsed: float) -> float:
        """For the step with that number, from 0, that begins after so many seconds."""
        if self.decay_from is None and elapsed >= (1 - DECAY_SHARE) * self.seconds:
            self.decay_from = step
            self.decay_steps = max(1, int(step * (self.seconds - elapsed) / max(elapsed, 1e-9)))
        # a run too short for all of these steps warms up in a share of its time
        warm = min(1.0, max((step + 1) / WARM_UP_STEPS, elapsed / (WARM_UP_SHARE * self.seconds)))
        if self.decay_from is None:
            return warm
        return warm * max(0.0, 1 - (step - self.decay_from) / self.decay_steps)

    def is_over(self, step: int, elapsed: float) -> bool:
        """Whether the rate has come to zero, or the time to its end."""
        decayed = self.decay_from is not None and step >= self.decay_from + self.decay_steps
        return decayed or elapsed >= 1.03 * self.seconds
