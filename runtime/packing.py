"""Several small arrays in one int32 vector: a step's inputs travel to the device in one copy."""

import math
from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

type Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Packing:
    """Names and shapes of the arrays, in their order within the vector."""

    fields: tuple[tuple[str, tuple[int, ...]], ...]

    @cached_property
    def size(self) -> int:
        """Length of the vector."""
        return sum(math.prod(shape) for _, shape in self.fields)

    def views(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays as parts of a host vector; writing to them writes to it."""
        views, start = {}, 0
        for name, shape in self.fields:
            size = math.prod(shape)
            views[name] = vector[start : start + size].reshape(shape)
            start += size
        return views

    def unpack(self, vector: Array) -> dict[str, Array]:
        """The same of a device vector, inside a program."""
        views, start = {}, 0
        for name, shape in self.fields:
            size = math.prod(shape)
            views[name] = lax.slice_in_dim(vector, start, start + size).reshape(shape)
            start += size
        return views


def float_bits(values: np.ndarray) -> np.ndarray:
    """float32 numbers as the int32 that have their bits."""
    return values.astype(np.float32).view(np.int32)


def from_bits(bits: Array) -> Array:
    """The float32 numbers again, on the device."""
    return lax.bitcast_convert_type(bits, jnp.float32)


def to_bits(values: Array) -> Array:
    """float32 numbers as int32, on the device."""
    return lax.bitcast_convert_type(values, jnp.int32)
