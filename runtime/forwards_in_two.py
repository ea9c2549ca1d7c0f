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
    """A forward as two programs, each with the weights of its layers."""

    begin: Any
    go_on: Any
    first: list[Array]
    others: list[Array]

    def __call__(
        self, cache: KVCache, state: SlotState, vector: Any
    ) -> tuple[KVCache, SlotState, Array]:
        """What the one program would give for the vector."""
        cache, state, *handed_on = self.begin(self.first, cache, state, vector)
        cache, hidden = self.go_on(self.others, cache, state, *handed_on)
        return cache, state, hidden


class ForwardsInTwo:
    """By their shapes; one is there when both of its programs are."""

    def __init__(self, decoder: Part, first_layers: Mapping[Bucket, int]):
        """Without programs.

        Args:
            first_layers: how many layers the first program of a shape has.
        """
        self._num_layers = first_layers
        self._parts = {
            bucket: split_decoder(decoder, num_layers)
            for bucket, num_layers in first_layers.items()
        }
        self._programs: dict[Half, Any] = {}

    def values(self) -> list[ForwardInTwo]:
        """Those that are there."""
        found = map(self.get, self._num_layers)
        return [forward for forward in found if forward is not None]

    def get(self, bucket: Bucket) -> ForwardInTwo | None:
        """The forward of a shape, if it is there."""
        begin = self._programs.get(Half(bucket, True))
        go_on = self._programs.get(Half(bucket, False))
        if begin is None or go_on is None:
            return None
        return ForwardInTwo(begin, go_on, *(part.leaves for part in self._parts[bucket]))

    def keep(self, half: Half, program: Any) -> None:
        """Adds a program."""
        self._programs[half] = program

    def recipes(
        self,
        functions: StepFunctions,
        cache: KVCache,
        state: SlotState,
        hidden: jax.ShapeDtypeStruct,
        vector: Callable[[Bucket], jax.ShapeDtypeStruct],
    ) -> dict[Half, Recipe]:
        """What they are made from.

        Args:
            hidden: what a forward gives.
            vector: what it takes.
        """
        recipes = {}
        for bucket, num_layers in self._num_layers.items():
            first, others = self._parts[bucket]
            stream = hidden.update(shape=(bucket.num_tokens, hidden.shape[1]))
            given = vector(bucket)
            handed_on = (stream, stream, given)
            recipes[Half(bucket, True)] = Recipe(
                f"begin_{bucket.name}",
                partial(functions.begin, bucket, num_layers),
                (first.leaves, cache, state, given),
                (cache, state, *handed_on),
            )
            recipes[Half(bucket, False)] = Recipe(
                f"go_on_{bucket.name}",
                partial(functions.go_on, bucket, num_layers),
                (others.leaves, cache, state, *handed_on),
                (cache, hidden),
            )
        return recipes
