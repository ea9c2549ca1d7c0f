"""What every device has, on every device, as one kernel on Hopper.

For the best scores of each device's part of the vocabulary. XLA's gather is not in a step's graph:
around it lie a meeting of the launching threads and some 0.3 ms of the host (docs/performance.md).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Int

from pallas_kernels.add_norm import WARPGROUP
from pallas_kernels.peer_packets import PACKET, WORDS, exchange

CHUNK = WARPGROUP * WORDS  # words of an instance
MAX_WORDS = 2**14


def inbox_bytes(num_devices: int) -> int:
    """Memory that each device needs for what others send."""
    return num_devices * MAX_WORDS // WORDS * PACKET


@partial(jax.jit, static_argnames=("first_byte",))
def one_shot_gather(
    words: Int[Array, " W"],
    *,
    inboxes: Int[Array, "N 2"],
    own: Int[Array, " 1"],
    step: Int[Array, " 1"],
    first_byte: int,
) -> Int[Array, "N W"]:
    """The words of all devices, on each of them; W <= MAX_WORDS.

    All devices call it once a step, and something else has made them wait for each other since.

    Args:
        inboxes: as of `pallas_kernels.one_shot_norm`.
        own: this device's number among them.
        step: its number.
        first_byte: in each inbox, of this kernel's `inbox_bytes`.
    """
    (count,) = words.shape
    if count > MAX_WORDS:
        raise ValueError(f"at most {MAX_WORDS} words, got {count}")
    num_chunks = -(-count // CHUNK)
    padded = jnp.pad(words, (0, num_chunks * CHUNK - count))
    gathered: Array = plgpu.kernel(
        partial(_kernel, first_packet=first_byte // PACKET),
        out_type=jax.ShapeDtypeStruct((inboxes.shape[0], padded.size), jnp.int32),
        grid=(num_chunks,),
        grid_names=("chunk",),
        kernel_name="one_shot_gather",
    )(padded, inboxes, own, step)
    return gathered[:, :count]


def _kernel(
    words_gmem: Any,  # [W]
    inboxes_gmem: Any,  # [N, 2]
    own_gmem: Any,  # [1]
    step_gmem: Any,  # [1]
    out_gmem: Any,  # [N, W]
    *,
    first_packet: int,
) -> None:
    chunk = lax.axis_index("chunk")
    own = pl.ds(pl.multiple_of(chunk * CHUNK, CHUNK), CHUNK)
    layout = plgpu.Layout.WG_STRIDED((CHUNK,), vec_size=WORDS)
    parts = exchange(
        plgpu.load(words_gmem.at[own], layout=layout),
        inboxes_gmem,
        own_gmem[0],
        first_packet + chunk * WARPGROUP,
        step_gmem[0] + 1,  # no flag is 0, as the memory was
        layout=layout,
        sender_stride=MAX_WORDS // WORDS,
    )
    for sender, part in enumerate(parts):
        out_gmem[sender, own] = part
