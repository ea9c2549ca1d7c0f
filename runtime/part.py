"""A module of the model as a list of arrays, which programs take as arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array

from models.mesh import partition


@dataclass(frozen=True)
class Part:
    """A module taken apart once: what it is, its arrays, and where they are cut."""

    graph: Any
    treedef: Any
    leaves: list[Array]
    specs: list[PartitionSpec]

    def rebuild(self, leaves: list[Array]) -> Any:
        """The module around other arrays, inside a program."""
        return nnx.merge(self.graph, jax.tree.unflatten(self.treedef, leaves))


def take_apart(module: nnx.Module) -> Part:
    """The module as a list of arrays: a call with modules costs tens of milliseconds."""
    graph, state = nnx.split(module)
    leaves, treedef = jax.tree.flatten(state)
    variables = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    specs = [partition(variable.get_metadata("axes")) for variable in variables]
    return Part(graph, treedef, leaves, specs)


def split_decoder(decoder: Part, num_layers: int) -> tuple[Part, Part]:
    """A decoder in two parts: the second begins behind the first norm of layer `num_layers`."""
    tree = jax.tree.unflatten(decoder.treedef, range(decoder.treedef.num_leaves))
    rest = {layer: own for layer, own in tree["layers"].items() if layer >= num_layers}
    behind = set(jax.tree.leaves(rest[num_layers]["attn_norm"]))
    others = set(jax.tree.leaves(rest)) - behind

    def part(wanted: Callable[[int], bool]) -> Part:
        kept = jax.tree.map(lambda place: place if wanted(place) else None, tree)
        leaves = [leaf for place, leaf in enumerate(decoder.leaves) if wanted(place)]
        specs = [spec for place, spec in enumerate(decoder.specs) if wanted(place)]
        return Part(decoder.graph, jax.tree.structure(kept), leaves, specs)

    return part(lambda place: place not in others), part(lambda place: place in others)


def decoder_width(decoder: Part) -> int:
    """D, of the module that was taken apart."""
    return int(_embedding(decoder).shape[1])


def decoder_dtype(decoder: Part) -> jnp.dtype:
    """The dtype of activations."""
    return jnp.dtype(_embedding(decoder).dtype)


def _embedding(decoder: Part) -> Any:
    state = jax.tree.unflatten(decoder.treedef, decoder.leaves)
    return state["embedding"][...]
