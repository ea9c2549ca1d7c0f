"""A program lowered in one process and compiled in another, for a device that the first has not."""

from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import jax
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from runtime.recipe import Recipe

# What jax.export does not promise to be the same in another version; this one reads it again.
OURS = [
    export.DisabledSafetyCheck.custom_call(name) for name in ("mosaic_gpu_v2", "LayoutConstraint")
]


@dataclass(frozen=True)
class Setting:
    """For what is lowered, and how JAX was set up where it is wanted.

    Attributes:
        device: of which a program will have one.
        options: of jax.config, by name.
    """

    device: AbstractDevice
    options: dict[str, Any]

    @property
    def platform(self) -> str:
        """Of the device, as jax.export calls it."""
        return "cuda" if self.device.platform == "gpu" else self.device.platform


@dataclass(frozen=True)
class Exported:
    """A program that takes and gives the leaves of its arguments and results.

    Attributes:
        content: as jax.export writes it.
        seconds: what jax.monitoring told of it, by event.
    """

    content: bytes
    seconds: dict[str, float]


def export_program(recipe: Recipe, setting: Setting) -> Exported:
    """The program, lowered.

    Args:
        recipe: of shapes alone.
    """
    function = recipe.function()
    leaves, tree = jax.tree.flatten(recipe.arguments)

    def run(*leaves: Any) -> list[Any]:
        return jax.tree.leaves(function.run(*jax.tree.unflatten(tree, leaves)))

    run.__name__ = function.name
    seconds: dict[str, float] = {}

    def listen(event: str, duration_secs: float, **facts: Any) -> None:
        # not the functions that it calls
        if facts.get("fun_name") in (function.name, f"jit({function.name})"):
            seconds[event] = seconds.get(event, 0.0) + duration_secs

    make = export.export(jax.jit(run), platforms=[setting.platform], disabled_checks=OURS)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with use_abstract_mesh(AbstractMesh((), (), abstract_device=setting.device)):
            exported = make(*leaves)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return Exported(bytes(exported.serialize()), seconds)


def lower_exported(exported: bytes, recipe: Recipe) -> Any:
    """What was exported, as if it had been lowered for the recipe at once."""
    program = export.deserialize(bytearray(exported))
    tree = jax.tree.structure(recipe.result)
    function = recipe.function()

    @wraps(function.run)  # arguments are called by their names in a compiled program
    def run(*arguments: Any) -> Any:
        return jax.tree.unflatten(tree, program.call(*jax.tree.leaves(arguments)))

    return replace(function, run=run).jit().lower(*recipe.arguments)
