"""Memory of each device that the others write to, for what devices tell each other in a step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from models.mesh import TP
from models.reduction import AllReduce, Reduction
from pallas_kernels import one_shot_gather, one_shot_norm

MAX_ROWS = 128  # more of them are better summed in pieces, as XLA does
NUM_STEPS = 2**23  # then their numbers begin again

# share(words int32 [W] of this device) -> [N, W], of all
type Share = Callable[[Array], Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Peers:
    """What kernels must know of the devices' memory.

    Attributes:
        inboxes: int32 [N, 2], where each device's begins: words of the address, low first
        own: int32 [N], each device's number, of which it has its own. XLA's way to ask for it is no
            part of a CUDA graph, and would cut a step's in two.
        step: int32 [1], the number of the step
    """

    inboxes: Any
    own: Any
    step: Any

    def next(self) -> "Peers":
        """Those of the next step."""
        return replace(self, step=(self.step + 1) % NUM_STEPS)


PEER_SPECS = Peers(PartitionSpec(), PartitionSpec(TP), PartitionSpec())


class Exchange:
    """The inboxes of a mesh, `memory`, and `peers`, which say where they are."""

    def __init__(self, mesh: Mesh, *, width: int):
        norms = one_shot_norm.inbox_bytes(mesh.size, MAX_ROWS, width)
        size = norms + one_shot_gather.inbox_bytes(mesh.size)
        # never donated, never moved: kernels know it by its address
        self.memory = jax.jit(
            partial(jnp.zeros, (mesh.size, size), jnp.uint8),
            out_shardings=NamedSharding(mesh, PartitionSpec(TP)),
        )()
        # before a device that is faster writes to another's
        jax.block_until_ready(self.memory)
        by_device = {shard.device: shard.data for shard in self.memory.addressable_shards}
        addresses = [by_device[device].unsafe_buffer_pointer() for device in mesh.devices.flat]
        words = np.array(addresses, np.uint64).view(np.int32).reshape(-1, 2)
        values = Peers(words, np.arange(mesh.size, dtype=np.int32), np.zeros(1, np.int32))
        self.peers: Peers = jax.tree.map(
            lambda value, spec: jax.device_put(value, NamedSharding(mesh, spec)), values, PEER_SPECS
        )


def one_shot(all_reduce: AllReduce, peers: Peers) -> Reduction:
    """The sums of a step of at most MAX_ROWS tokens, under shard_map."""

    def sum_norm(
        number: Array, x: Array, terms: Array, scale: Array, eps: float
    ) -> tuple[Array, Array]:
        added, normed = one_shot_norm.one_shot_norm(
            x,
            terms,
            scale,
            eps,
            inboxes=peers.inboxes,
            own=peers.own,
            step=peers.step,
            number=number.reshape(1),
            max_rows=MAX_ROWS,
        )
        return added, normed

    return Reduction(all_reduce, sum_norm)


def share_by_xla(words: Array) -> Array:
    """What every device has, under shard_map."""
    return lax.all_gather(words, TP)


def share_by(peers: Peers, *, width: int) -> Share:
    """The same, by the devices' memory where it is enough; once a step, after its sums."""

    def share(words: Array) -> Array:
        if words.size > one_shot_gather.MAX_WORDS:
            return share_by_xla(words)
        gathered: Array = one_shot_gather.one_shot_gather(
            words,
            inboxes=peers.inboxes,
            own=peers.own,
            step=peers.step,
            first_byte=one_shot_norm.inbox_bytes(peers.inboxes.shape[0], MAX_ROWS, width),
        )
        return gathered

    return share
