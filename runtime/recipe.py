"""A program that is wanted: what it is made from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from runtime.step_functions import StepFunction


@dataclass(frozen=True)
class Recipe:
    """A program that is wanted.

    Attributes:
        function: makes what is to be lowered.
        arguments: arrays, or their shapes.
        result: something with the structure of what it returns.
    """

    name: str
    function: Callable[[], StepFunction]
    arguments: tuple[Any, ...]
    result: Any

    def of_shapes(self) -> "Recipe":
        """The same without arrays."""
        arguments, result = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (self.arguments, self.result)
        )
        return replace(self, arguments=arguments, result=result)

    def lower(self) -> Any:
        """The program, traced and lowered: seconds, in which no other Python runs."""
        return self.function().jit().lower(*self.arguments)
