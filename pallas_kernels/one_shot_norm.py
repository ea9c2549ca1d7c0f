"""The sum over devices, the addition to the residual stream and the norm, as one kernel on Hopper.

Devices send each other their parts by `pallas_kernels.peer_packets`. For the few rows of a decoding
step XLA's sum takes 15 µs, most of it barriers, and the norm 3 more; this takes 3 to 7
(docs/performance.md).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from pallas_kernels.add_norm import WARPGROUP
from pallas_kernels.peer_packets import PACKET, WORDS, exchange, num_packets

NEIGHBOURS = 2 * WORDS  # values of 16 bits that a thread sends at once
NUM_SLOTS = 2  # used by turns: who writes to one again knows that everybody has read it
MAX_CALLS = 256  # of a step


def takes(*, width: int, num_calls: int) -> bool:
    """Whether the kernel can sum rows so wide, so often a step."""
    return width % (WARPGROUP * NEIGHBOURS) == 0 and num_calls <= MAX_CALLS


def inbox_bytes(num_devices: int, max_rows: int, width: int) -> int:
    """Memory that each device needs for what others send."""
    return NUM_SLOTS * num_devices * max_rows * _row_packets(width) * PACKET


def _row_packets(width: int) -> int:
    return num_packets(width // (WARPGROUP * NEIGHBOURS))


@partial(jax.jit, static_argnames=("eps", "max_rows"))
def one_shot_norm(
    x: Float[Array, "T D"],
    terms: Float[Array, "terms T D"],
    scale: Float[Array, " D"],
    eps: float,
    *,
    inboxes: Int[Array, "N 2"],
    own: Int[Array, " 1"],
    step: Int[Array, " 1"],
    number: Int[Array, " 1"],
    max_rows: int,
) -> tuple[Float[Array, "T D"], Float[Array, "T D"]]:
    """`x` with the terms of all devices added, and its norm, the same on every device.

    A device's terms are summed in float32 and sent in the type of `x`, so what is added is the same
    everywhere; devices are added in their order. All devices call it as often, in one order.

    Args:
        x: of 16 bits, the same on all devices (`takes`).
        inboxes: where each device's `inbox_bytes` begin, as the words of the address, low first.
            They were zero before the first call.
        own: this device's number among them.
        step: its number.
        number: of the call in the step, below MAX_CALLS. Neighbours differ in their last bit, or
            something else has made the devices wait for each other in between.
        max_rows: for which the inboxes were made.
    """
    num_rows, width = x.shape
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    added, normed = plgpu.kernel(
        partial(_kernel, eps=eps, max_rows=max_rows),
        out_type=[shape, shape],
        grid=(num_rows,),
        grid_names=("row",),
        kernel_name="one_shot_norm",
    )(x, terms, scale, inboxes, own, step, number)
    return added, normed


def _kernel(
    x_gmem: Any,  # [T, D]
    terms_gmem: Any,  # [terms, T, D]
    scale_gmem: Any,  # [D]
    inboxes_gmem: Any,  # [N, 2]
    own_gmem: Any,  # [1]
    step_gmem: Any,  # [1]
    number_gmem: Any,  # [1]
    added_gmem: Any,  # [T, D]
    normed_gmem: Any,  # [T, D]
    *,
    eps: float,
    max_rows: int,
) -> None:
    row = lax.axis_index("row")
    num_devices, width = inboxes_gmem.shape[0], x_gmem.shape[1]
    layout = plgpu.Layout.WG_STRIDED((width,), vec_size=NEIGHBOURS)

    def read(ref: Any) -> Array:
        return plgpu.load(ref, layout=layout).astype(jnp.float32)

    part = read(terms_gmem.at[0, row])
    for i in range(1, terms_gmem.shape[0]):
        part = part + read(terms_gmem.at[i, row])
    residual, factor = read(x_gmem.at[row]), read(scale_gmem)  # while the others' parts travel
    number = number_gmem[0]
    # packets of a row, of a sender, of a slot follow each other
    packets = _row_packets(width)
    received = ((number % NUM_SLOTS) * num_devices * max_rows + row) * packets
    parts = exchange(
        part.astype(x_gmem.dtype),
        inboxes_gmem,
        own_gmem[0],
        received,
        step_gmem[0] * MAX_CALLS + number + 1,  # no flag is 0, as the memory was
        layout=layout,
        sender_stride=max_rows * packets,
    )
    whole = parts[0].astype(jnp.float32)
    for theirs in parts[1:]:
        whole = whole + theirs.astype(jnp.float32)
    added = (residual + whole).astype(x_gmem.dtype)
    added_gmem[row] = added
    wide = added.astype(jnp.float32)
    wide = wide * lax.rsqrt(jnp.sum(wide * wide) / width + eps)
    normed_gmem[row] = (wide * factor).astype(normed_gmem.dtype)
