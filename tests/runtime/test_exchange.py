"""What kernels are told of the devices' memory."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from models.mesh import make_mesh
from pallas_kernels import one_shot_gather
from pallas_kernels.one_shot_norm import inbox_bytes
from runtime.exchange import MAX_ROWS, NUM_STEPS, Exchange


def test_peers_say_where_the_inboxes_are_and_which_step_it_is():
    exchange = Exchange(make_mesh(1), width=512)
    assert exchange.memory.nbytes == inbox_bytes(1, MAX_ROWS, 512) + one_shot_gather.inbox_bytes(1)
    address = np.asarray(exchange.peers.inboxes).view(np.uint64).item()
    assert address == exchange.memory.unsafe_buffer_pointer()
    assert exchange.peers.own.tolist() == [0]
    assert exchange.peers.next().step.tolist() == [1]
    last = replace(exchange.peers, step=jnp.array([NUM_STEPS - 1]))
    assert last.next().step.tolist() == [0]
