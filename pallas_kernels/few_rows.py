"""Products of a wide matrix with a few rows on Hopper, at the speed of its memory.

What it computes is `pallas_kernels.multiply.multiply`, or with a gate `gated_product`. The matrix
is the left factor of the matrix instruction, 64 of its rows at a time, and the few rows are the
right one, so that little of the instruction is wasted; each program instance streams its part of
the matrix through shared memory with the bulk copy engine. Matrices with few rows are split along
the columns, to occupy every multiprocessor.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from pallas_kernels.online_softmax import TILE_M, product, swizzled
from pallas_kernels.tiled_product import silu_gate

ROW_TILE = 8  # the right factor's least number of columns
MAX_ROWS = 32
MAX_TILES = 132  # one a multiprocessor
MIN_WHOLE = 64  # tiles that are not split: a split's sum is one more to read
MIN_INSTANCES = 100


@dataclass(frozen=True)
class TuningConfig:
    """How the work is cut.

    Attributes:
        tile_k: columns of the matrix in one copy.
        num_stages: copies in flight.
        num_splits: parts of the columns, computed apart.
    """

    tile_k: int = 256
    num_stages: int = 4
    num_splits: int = 2


def choose_config(num_out: int, num_in: int) -> TuningConfig | None:
    """A configuration for a matrix [num_out, num_in], or None where XLA's product is as fast.

    By trial on an H200 (docs/performance.md): [3584, 18944] takes 33.5 µs against 39.9 µs, and half
    of the multiprocessors are enough to stream [4608, 3584].
    """
    tiles = num_out // TILE_M
    if num_out % TILE_M or not 0 < tiles <= MAX_TILES:
        return None
    for splits in (1, 2, 4, 8):
        least = MIN_WHOLE if splits == 1 else MIN_INSTANCES
        for tile_k in (256, 128):
            if tiles * splits >= least and num_in % (splits * tile_k) == 0:
                return TuningConfig(tile_k, 1024 // tile_k, splits)
    return None


@partial(jax.jit, static_argnames=("config", "interpret"))
def few_rows_product(
    x: Float[Array, "T in"],
    matrix: Float[Array, "out in"],
    *,
    config: TuningConfig,
    interpret: Any = None,
) -> Float[Array, "splits T out"]:
    """`x @ matrix.T` in float32, for up to 32 rows of a 16-bit type, as terms to be summed.

    Args:
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.

    Raises:
        ValueError: a shape or type that the kernel does not take.
    """
    shape = (config.num_splits, x.shape[0], matrix.shape[0])
    out_type = jax.ShapeDtypeStruct(shape, jnp.float32)
    return stream(x, matrix[None], out_type, config=config, interpret=interpret)


def stream(
    x: Float[Array, "T in"],
    matrix: Float[Array, "parts out in"],
    out_type: jax.ShapeDtypeStruct,
    *,
    config: TuningConfig,
    interpret: Any,
) -> Array:
    """The kernel; of two parts the first is a gate, and `out_type` [1, T, out].

    Raises:
        ValueError: a shape or type that the kernel does not take.
    """
    num_rows, num_in = x.shape
    num_parts, num_out = matrix.shape[:2]
    if num_rows > MAX_ROWS:
        raise ValueError(f"at most {MAX_ROWS} rows, got {num_rows}")
    if x.dtype.itemsize != 2 or matrix.dtype != x.dtype:
        raise ValueError(f"both factors must have one 16-bit type, got {x.dtype}, {matrix.dtype}")
    if num_out % TILE_M or num_in % (config.num_splits * config.tile_k):
        raise ValueError(f"{config} does not divide a matrix of {matrix.shape[1:]}")
    padded = -(-num_rows // ROW_TILE) * ROW_TILE
    x = jnp.pad(x, ((0, padded - num_rows), (0, 0)))
    stages, tile_k = config.num_stages, config.tile_k
    kwargs = {} if interpret is None else {"interpret": interpret}
    result: Array = plgpu.kernel(
        partial(_kernel, config=config),
        out_type=out_type,
        grid=(num_out // TILE_M, config.num_splits),
        grid_names=("tile", "split"),
        kernel_name="few_rows_product" if num_parts == 1 else "few_rows_gated",
        scratch_types=[
            plgpu.SMEM((stages, num_parts, TILE_M, tile_k), x.dtype, transforms=swizzled(2)),
            plgpu.SMEM((stages, padded, tile_k), x.dtype, transforms=swizzled(2)),
            plgpu.SMEM((padded, TILE_M), out_type.dtype),
            plgpu.Barrier(num_arrivals=1 + num_parts, num_barriers=stages),
        ],
        **kwargs,
    )(x, matrix)
    return result


def _kernel(
    x_gmem: Any,  # [padded, in]
    matrix_gmem: Any,  # [parts, out, in]
    out_gmem: Any,  # [splits, T, out]
    matrix_smem: Any,  # [stages, parts, 64, tile_k]
    x_smem: Any,  # [stages, padded, tile_k]
    out_smem: Any,  # [padded, 64]
    barrier: Any,
    *,
    config: TuningConfig,
) -> None:
    tile, split = lax.axis_index("tile"), lax.axis_index("split")
    stages, tile_k = config.num_stages, config.tile_k
    rows = pl.ds(pl.multiple_of(tile * TILE_M, TILE_M), TILE_M)
    num_parts = matrix_gmem.shape[0]
    num_tiles = matrix_gmem.shape[2] // config.num_splits // tile_k

    def fetch(i: Any, stage: Any) -> None:
        columns = pl.ds(pl.multiple_of((split * num_tiles + i) * tile_k, tile_k), tile_k)
        into = barrier.at[stage]
        for part in range(num_parts):
            own = matrix_gmem.at[part, rows, columns]
            plgpu.copy_gmem_to_smem(own, matrix_smem.at[stage, part], into)
        plgpu.copy_gmem_to_smem(x_gmem.at[:, columns], x_smem.at[stage], into)

    for stage in range(min(stages, num_tiles)):
        fetch(stage, stage)

    def multiply(*accumulators: Any) -> tuple[Array, ...]:
        def step(i: Array, carry: Array) -> Array:
            stage = lax.rem(i, jnp.int32(stages))
            plgpu.barrier_wait(barrier.at[stage])
            for part, acc_ref in enumerate(accumulators):
                plgpu.wgmma(
                    acc_ref, matrix_smem.at[stage, part], x_smem.at[stage].transpose((1, 0))
                )
            plgpu.wgmma_wait(0)

            @pl.when(i + stages < num_tiles)
            def _() -> None:
                fetch(i + stages, stage)

            return carry

        lax.fori_loop(0, num_tiles, step, jnp.int32(0))
        return tuple(acc_ref[...] for acc_ref in accumulators)

    sums = product(multiply, *[(TILE_M, x_gmem.shape[0])] * num_parts)
    made = sums[0] if num_parts == 1 else silu_gate(*sums)
    made = plgpu.layout_cast(made, plgpu.Layout.WGMMA_TRANSPOSED)
    out_smem.transpose((1, 0))[...] = made.astype(out_gmem.dtype)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(out_smem.at[pl.ds(0, out_gmem.shape[1])], out_gmem.at[split, :, rows])
    plgpu.wait_smem_to_gmem(0)
