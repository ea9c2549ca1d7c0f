"""Functions of the caller on a request's scores: logits processors and samplers, traced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from runtime.token_key import token_key

type Number = Array | np.number[Any]
# state: a dictionary; the runtime sets `last_token` and `num_answered` in it before each call, the
# function may keep more. Empty of the function's own entries at a request's first token.
type State = dict[str, Any]
type Processor = Callable[[Array, State], tuple[Array, State]]
# sampler(scores [V], key, params) -> token id; params: temperature, top_p, top_k and min_p
type Sampler = Callable[[Array, Array, dict[str, Number]], Array]
# run(scores [S, V], last_tokens [S], row, state) -> both again, with the row's scores changed
type ScoreFunction = Callable[[Array, Array, "Row", State], tuple[Array, State]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Row:
    """Which row of the scores is whose.

    Attributes:
        row: of the scores.
        slot: of the request.
        given: the last token, or -1 where only the device knows it.
        position: of the token to be chosen.
        num_answered: tokens of the answer before it.
        seed: uint32 [3], as in `runtime.slots.SlotState`.
        params: numbers of the request's sampling parameters.
    """

    row: Number
    slot: Number
    given: Number
    position: Number
    num_answered: Number
    seed: Array | np.ndarray
    params: dict[str, Number]


@dataclass
class Processing:
    """One request's functions, in their order, and what they remember."""

    functions: Sequence[ScoreFunction]
    states: list[State] = field(init=False)

    def __post_init__(self) -> None:
        self.states = [{} for _ in self.functions]

    def apply(self, scores: Array, last_tokens: Array, row: Row) -> Array:
        """The scores [S, V] with the request's row changed. Compiles what is new."""
        with jax.no_tracing(False):
            for i, function in enumerate(self.functions):
                scores, self.states[i] = function(scores, last_tokens, row, self.states[i])
        return scores


def make_processor(function: Processor) -> ScoreFunction:
    """The processor on its request's row; compiled once for each structure of its state."""
    _check_function(function)

    @partial(jax.jit, donate_argnums=0)
    def run(scores: Array, last_tokens: Array, row: Row, state: State) -> tuple[Array, State]:
        last = jnp.where(row.given >= 0, row.given, last_tokens[row.slot])
        known = {"last_token": last, "num_answered": row.num_answered}
        changed, state = function(scores[row.row], {**state, **known})
        return scores.at[row.row].set(changed), state

    return run


def make_sampler(function: Sampler) -> ScoreFunction:
    """The sampler as one that leaves a single token to choose."""
    _check_function(function)

    @partial(jax.jit, donate_argnums=0)
    def run(scores: Array, last_tokens: Array, row: Row, state: State) -> tuple[Array, State]:
        token = function(
            scores[row.row], token_key(jnp.asarray(row.seed), jnp.asarray(row.position)), row.params
        )
        only = jnp.where(jnp.arange(scores.shape[1]) == token, 0.0, -jnp.inf)
        return scores.at[row.row].set(only), state

    return run


def _check_function(function: object) -> None:
    if not callable(function):
        raise ValueError(f"processors and samplers are functions, got {function!r}")
