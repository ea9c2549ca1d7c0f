"""silu(x @ gate.T) * (x @ up.T) as one kernel on Hopper.

XLA writes both products to memory and reads them again, in a kernel more. Here both stay in
registers until they are one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import few_rows
from pallas_kernels.multiply import Multiply, hopper_multiply, multiply
from pallas_kernels.online_softmax import TILE_M
from pallas_kernels.tiled_product import (
    BLOCK_ROWS,
    MAX_STAGES,
    NUM_CORES,
    ROWS_RANGE,
    TuningConfig,
    run_tiles,
)

# Both results of a tile lie in a warpgroup's registers: 2 * 64 * 160 / 128 = 160 of a thread.
TILE_OUT_RANGE = (64, 160)
SMEM_BYTES = 226 * 1024  # a multiprocessor's, without what barriers take
LEAST_STREAMED = 5  # rows
# What smaller tiles and fewer copies in flight cost; [128 to 512, 3584] by [2, 18944, 3584] on an
# H200, docs/performance.md.
ENOUGH_TILE_OUT, ENOUGH_STAGES, FEW_STAGES_COST = 96, 4, 0.93


def choose_config(num_rows: int, num_out: int, num_in: int) -> TuningConfig | None:
    """A configuration, or None for shapes that the kernel does not take.

    The one that should keep most multiprocessors busy: the last round is the problem.
    """
    if not ROWS_RANGE[0] <= num_rows <= ROWS_RANGE[1] or num_rows % BLOCK_ROWS:
        return None
    if num_in % 64 or num_out % 8 or num_out < TILE_OUT_RANGE[0]:
        return None
    rows = num_rows // BLOCK_ROWS

    def config(tile_out: int) -> TuningConfig:
        result = 2 * BLOCK_ROWS * tile_out
        stage = 2 * 64 * (BLOCK_ROWS + 2 * tile_out)
        return TuningConfig(tile_out, 64, min(MAX_STAGES, (SMEM_BYTES - result) // stage))

    def speed(config: TuningConfig) -> float:
        count = rows * -(-num_out // config.tile_out)
        busy = rows * num_out / (config.tile_out * NUM_CORES * -(-count // NUM_CORES))
        wide = min(1.0, config.tile_out / ENOUGH_TILE_OUT)
        return busy * wide * (1.0 if config.num_stages >= ENOUGH_STAGES else FEW_STAGES_COST)

    least, most = TILE_OUT_RANGE
    widths = range(least, min(most, num_out) + 1, 8)
    return max((config(tile_out) for tile_out in widths), key=speed)


class Gated(Protocol):
    """How gate and up are made: `gated_product`, or what is faster."""

    def __call__(self, x: Array, matrix: Array) -> Array: ...


def gated_product(
    x: Float[Array, "T in"], matrix: Float[Array, "2 out in"], multiply: Multiply = multiply
) -> Float[Array, "T out"]:
    """silu(gate) * up of one product with both, in the type of `x`."""
    both = multiply(x, matrix.reshape(-1, x.shape[1]), narrow=True)
    return activate(both, x.dtype)


def activate(terms: Float[Array, "terms T 2*out"], dtype: Any) -> Float[Array, "T out"]:
    """silu(gate) * up of a product in terms, computed in float32."""
    whole = terms[0] if terms.shape[0] == 1 else terms.sum(axis=0)
    gate, up = jnp.split(whole.astype(jnp.float32), 2, axis=-1)
    return (jax.nn.silu(gate) * up).astype(dtype)


def hopper_gated(
    x: Float[Array, "T in"], matrix: Float[Array, "2 out in"]
) -> Float[Array, "T out"]:
    """`gated_product`, of 16-bit types as one kernel where that is faster."""
    if matrix.dtype.itemsize == 2:
        if streamed := choose_streamed(x.shape[0], *matrix.shape[1:]):
            return streamed_gated_product(x, matrix, config=streamed)
        if config := choose_config(x.shape[0], *matrix.shape[1:]):
            return hopper_gated_product(x, matrix, config=config)
    return gated_product(x, matrix, hopper_multiply)


def choose_streamed(num_rows: int, num_out: int, num_in: int) -> few_rows.TuningConfig | None:
    """A configuration for a few rows, or None where XLA's product is as fast.

    By trial on an H200 (docs/performance.md).
    """
    if not LEAST_STREAMED <= num_rows <= few_rows.MAX_ROWS or num_out % TILE_M or num_in % 128:
        return None
    return few_rows.TuningConfig(128, 2 if num_rows <= few_rows.ROW_TILE else 4, 1)


@partial(jax.jit, static_argnames=("config", "interpret"))
def streamed_gated_product(
    x: Float[Array, "T in"],
    matrix: Float[Array, "2 out in"],
    *,
    config: few_rows.TuningConfig,
    interpret: Any = None,
) -> Float[Array, "T out"]:
    """`gated_product` for up to 32 rows of a 16-bit type.

    Args:
        config: without splits: a gate needs whole sums.
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.

    Raises:
        ValueError: a shape or type that the kernel does not take.
    """
    return _whole_sums(few_rows.stream, x, matrix, config, interpret)


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
    return _whole_sums(run_tiles, x, matrix, config, interpret)


def _whole_sums(
    kernel: Callable[..., Array],
    x: Array,
    matrix: Array,
    config: TuningConfig | few_rows.TuningConfig,
    interpret: Any,
) -> Array:
    """What a kernel of products in terms makes of a gate."""
    if config.num_splits != 1:
        raise ValueError(f"a gate needs whole sums, got {config}")
    out_type = jax.ShapeDtypeStruct((1, x.shape[0], matrix.shape[1]), x.dtype)
    return kernel(x, matrix, out_type, config=config, interpret=interpret)[0]
