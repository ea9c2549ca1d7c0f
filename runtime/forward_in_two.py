"""Some forwards as two programs each, for a device that has nothing else to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from models.kv_cache import KVCache
from runtime.buckets import Bucket
from runtime.part import Part, split_decoder
from runtime.recipe import Recipe
from runtime.slots import SlotState
from runtime.step_functions import StepFunctions


class Half(NamedTuple):
    """The key of one of the two programs."""

    bucket: Bucket
    is_first: bool


@dataclass(frozen=True)
class ForwardInTwo:
    """A forward as two programs, each with the weights that it reads."""

    begin: Any
    go_on: Any
    first: list[Array]
    others: list[Array]

    def __call__(
        self, cache: KVCache, state: SlotState, vector: Any
    ) -> tuple[KVCache, SlotState, Array]:
        """What the one program gives, but for rounding."""
        cache, state, *handed_on = self.begin(self.first, cache, state, vector)
        cache, hidden = self.go_on(self.others, cache, state, *handed_on)
        return cache, state, hidden


def recipes_in_two(
    decoder: Part,
    first_layers: Mapping[Bucket, int],
    functions: StepFunctions,
    cache: KVCache,
    state: SlotState,
    *,
    hidden: jax.ShapeDtypeStruct,
    vector: Callable[[Bucket], jax.ShapeDtypeStruct],
) -> dict[Half, Recipe]:
    """What the programs are made from.

    Args:
        first_layers: for each shape, how many layers its first program has.
        hidden: what a forward gives.
        vector: what it takes.
    """
    recipes = {}
    for bucket, num_layers in first_layers.items():
        first, others = split_decoder(decoder, num_layers)
        stream = hidden.update(shape=(bucket.num_tokens, hidden.shape[1]))
        handed_on = (stream, stream, vector(bucket))
        recipes[Half(bucket, True)] = Recipe(
            f"begin_{bucket.name}",
            partial(functions.begin, bucket, num_layers),
            (first.leaves, cache, state, vector(bucket)),
            (cache, state, *handed_on),
        )
        recipes[Half(bucket, False)] = Recipe(
            f"go_on_{bucket.name}",
            partial(functions.go_on, bucket, num_layers),
            (others.leaves, cache, state, *handed_on),
            (cache, hidden),
        )
    return recipes


def forwards_in_two(
    decoder: Part, first_layers: Mapping[Bucket, int], programs: Mapping[Any, Any]
) -> dict[Bucket, ForwardInTwo]:
    """The same of the programs that were made."""
    return {
        bucket: ForwardInTwo(
            programs[Half(bucket, True)],
            programs[Half(bucket, False)],
            *(part.leaves for part in split_decoder(decoder, num_layers)),
        )
        for bucket, num_layers in first_layers.items()
    }
