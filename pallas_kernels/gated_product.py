"""silu(x @ gate.T) * (x @ up.T) as one kernel on Hopper.

XLA writes both products to memory and reads them again; at 128 rows that is a kernel more, at some
thousand a tenth of the time. Here both stay in registers until they are one.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.online_softmax import TILE_M
from pallas_kernels.tiled_product import NUM_CORES, TuningConfig, run_tiles

# Both results of a tile lie in a warpgroup's registers: 2 * 64 * 160 / 128 = 160 of a thread.
MAX_TILE_OUT = 160


def choose_config(num_rows: int, num_out: int, num_in: int) -> TuningConfig | None:
    """A configuration, or None for shapes that the kernel does not take.

    Tiles of as many columns as give each multiprocessor one, or a few of equal size.
    """
    if num_rows % TILE_M or num_in % 64 or num_out % 8 or num_out < 64:
        return None
    consumers = 2 if num_rows % (2 * TILE_M) == 0 else 1
    passes = -(-num_out // (NUM_CORES * MAX_TILE_OUT))
    tile_out = max(64, -(-num_out // (NUM_CORES * passes * 8)) * 8)
    return TuningConfig(tile_out, num_consumers=consumers)


def gated_product(
    x: Float[Array, "T in"], matrix: Float[Array, "2 out in"]
) -> Float[Array, "T out"]:
    """The same by XLA, from products in float32, in the type of `x`."""
    gate, up = (
        lax.dot_general(x, part, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        for part in matrix
    )
    return (jax.nn.silu(gate) * up).astype(x.dtype)


@partial(jax.jit, static_argnames=("config", "interpret"))
def hopper_gated_product(
    x: Float[Array, "T in"],
    matrix: Float[Array, "2 out in"],
    *,
    config: TuningConfig,
    interpret: Any = None,
) -> Float[Array, "T out"]:
    """`gated_product` for rows in multiples of 64, of a 16-bit type.

    Args:
        config: without splits: a gate needs whole sums.
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.

    Raises:
        ValueError: a shape or type that the kernel does not take.
    """
    if config.num_splits != 1:
        raise ValueError(f"a gate needs whole sums, got {config}")
    out_type = jax.ShapeDtypeStruct((1, x.shape[0], matrix.shape[1]), x.dtype)
    return run_tiles(x, matrix, out_type, config=config, interpret=interpret)[0]
