"""The devices as a mesh, and which logical axis of a weight is spread over it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from models.config import ModelConfig
from models.weights import Axes

TP = "tp"

# logical axis of a weight -> axis of the mesh. Megatron's split: heads and feed-forward columns
# apart, so that each half of a layer needs one sum; the vocabulary apart, for the head.
# Source: Shoeybi et al., Megatron-LM, 2019.
RULES: dict[str | None, str | None] = {
    "kv_heads": TP,
    "ffn": TP,
    "vocab": TP,
    None: None,
}

CACHE_AXES: Axes = (None, None, "kv_heads", None, None)


def make_mesh(size: int, devices: Sequence[Any] | None = None) -> Mesh:
    """The first `size` devices in a row."""
    chosen = np.array((devices or jax.devices())[:size])
    return Mesh(chosen, (TP,), axis_types=(AxisType.Auto,))


def partition(axes: Axes) -> PartitionSpec:
    """Where an array with these logical axes is cut."""
    return PartitionSpec(*(RULES[axis] for axis in axes))


def sharding(mesh: Mesh, axes: Axes) -> NamedSharding:
    """The same, on the devices of `mesh`."""
    return NamedSharding(mesh, partition(axes))


def divides(config: ModelConfig, size: int) -> bool:
    """Whether `size` devices can share the model: kv heads and feed-forward are cut evenly.

    Of more devices than kv heads each holds one, which others have as well.
    """
    heads = config.num_kv_heads
    return (heads % size == 0 or size % heads == 0) and config.ffn_width % size == 0


def tensor_parallel_size(config: ModelConfig, asked: int | None, num_devices: int) -> int:
    """How many devices to use: what was asked for, or as many as there are and divide the model.

    Raises:
        ValueError: it was asked for more devices than there are, or for a number that does not
            divide the model; the message says what would.
    """
    possible = [n for n in range(1, num_devices + 1) if divides(config, n)]
    if asked is None:
        return possible[-1]
    if asked not in possible:
        raise ValueError(
            f"tensor_parallel_size must be one of {', '.join(map(str, possible))}, got {asked}: "
            f"there are {num_devices} devices, and the model has {config.num_kv_heads} kv heads "
            f"and a feed-forward width of {config.ffn_width}"
        )
    return asked
