"""Log-probabilities of given continuations, by the pure function."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from runtime.errors import RequestError
from runtime.experiments.pure_model import Params, PureModel

# lengths are padded to multiples of this, so that few programs are compiled
PADDING = 64


@dataclass(frozen=True)
class Score:
    """A continuation: its tokens, the log-probability of each, and their sum."""

    token_ids: list[int]
    logprobs: list[float]

    @property
    def total(self) -> float:
        """Log-probability of the whole continuation."""
        return sum(self.logprobs)


class Scorer:
    """Scores continuations of prompts; each padded length compiles once."""

    def __init__(self, model: PureModel, *, max_length: int):
        self._max_length = max_length
        self._params = model.params
        self._logprobs = jax.jit(partial(_logprobs, model))

    def score(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> Score:
        """The continuation `token_ids` behind a prompt.

        Raises:
            RequestError: one of the two is empty, or they are too long together.
        """
        tokens = [*prompt_ids, *token_ids]
        if not prompt_ids or not token_ids:
            raise RequestError("prompt and continuation need a token each", param="prompt")
        if len(tokens) > self._max_length:
            raise RequestError(
                f"prompt and continuation have {len(tokens)} tokens, "
                f"the model's limit is {self._max_length}",
                param="continuations",
            )
        padded = np.pad(tokens, (0, -len(tokens) % PADDING)).astype(np.int32)
        logprobs = np.asarray(self._logprobs(self._params, padded))
        own = logprobs[len(prompt_ids) - 1 : len(tokens) - 1]
        return Score(list(token_ids), own.tolist())


def _logprobs(model: PureModel, params: Params, tokens: Int[Array, " T"]) -> Float[Array, " T-1"]:
    logits, _ = model.forward(params, tokens)
    every = jax.nn.log_softmax(logits[:-1], axis=-1)
    return jnp.take_along_axis(every, tokens[1:, None], axis=1)[:, 0]
