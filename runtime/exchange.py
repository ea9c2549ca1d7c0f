"""Memory of each device that the others write to, for sums over them (`one_shot_norm`)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from models.mesh import TP
from models.qwen2 import AllReduce, Reduction
from pallas_kernels.one_shot_norm import inbox_bytes, one_shot_norm

MAX_ROWS = 128  # more of them are better summed in pieces, as XLA does
NUM_STEPS = 2**23  # then their numbers begin again


class Exchange:
    """The inboxes, and the number of the step that runs."""

    def __init__(self, mesh: Mesh, *, width: int):
        size = inbox_bytes(mesh.size, MAX_ROWS, width)
        # never donated, never moved: kernels know it by its address
        self._memory = jax.jit(
            partial(jnp.zeros, (mesh.size, size), jnp.uint8),
            out_shardings=NamedSharding(mesh, PartitionSpec(TP)),
        )()
        by_device = {shard.device: shard.data for shard in self._memory.addressable_shards}
        addresses = [by_device[device].unsafe_buffer_pointer() for device in mesh.devices.flat]
        self._words = np.array(addresses, np.uint64).view(np.int32).reshape(-1, 2)
        self._step = 0

    def fill(self, into: dict[str, np.ndarray]) -> None:
        """Writes what the next step needs into its inputs."""
        self._step = (self._step + 1) % NUM_STEPS
        into["inboxes"][:] = self._words
        into["step"][:] = self._step


def one_shot(all_reduce: AllReduce, inputs: dict[str, Array]) -> Reduction:
    """The sums of a step of at most MAX_ROWS tokens, under shard_map."""
    place = jnp.stack([lax.axis_index(TP), inputs["step"][0]])

    def sum_norm(
        number: Array, x: Array, terms: Array, scale: Array, eps: float
    ) -> tuple[Array, Array]:
        added, normed = one_shot_norm(
            x,
            terms,
            scale,
            eps,
            inboxes=inputs["inboxes"],
            place=place,
            number=number.reshape(1),
            max_rows=MAX_ROWS,
        )
        return added, normed

    return Reduction(all_reduce, sum_norm)
