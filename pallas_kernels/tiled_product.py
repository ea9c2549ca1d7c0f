"""Products of a matrix with many rows on Hopper, in tiles that occupy every multiprocessor.

What it computes is `pallas_kernels.multiply.multiply`, or with a gate `gated_product`. A warpgroup
fetches both factors through a ring in shared memory, the others multiply, 64 rows of `x` each.
Sums may be split, to be added up by whoever reads the terms.
"""

import itertools
from collections.abc import Iterator
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

NUM_CORES = 132
# What the ring may take of a multiprocessor's 227 KiB of shared memory.
RING_BYTES = 200_000
MAX_STAGES = 6
# Narrower tiles read `x` too often; wider ones do not fit the registers.
TILE_OUT_RANGE = (96, 256)
# Each term is written and read again; where it would be more of them, tiles may be narrower.
MAX_SPLITS = 4
NARROW_TILE_OUT = 64
MAX_ROUNDS = 2
# Fewer rows XLA reads as fast. Of more there are enough tiles however they are cut: at 768 these
# are a seventh faster, at 2,048 no longer, and each kernel takes half a second of every start.
ROWS_RANGE = (128, 512)
BLOCK_ROWS = 2 * TILE_M  # of a tile that is chosen
MIN_BUSY = 0.8  # share of the multiprocessors
# Registers of a thread of the fetching and of the computing warpgroups.
REGISTERS = (40, 232)


@dataclass(frozen=True)
class TuningConfig:
    """How the work is cut.

    Attributes:
        tile_out: columns of the result in one tile; the last tile begins early enough to be whole.
        tile_k: columns of both factors in one copy.
        num_stages: copies in flight.
        num_consumers: warpgroups that multiply, each 64 rows.
        num_splits: parts of the sums, computed apart.
    """

    tile_out: int
    tile_k: int = 64
    num_stages: int = 3
    num_consumers: int = 2
    num_splits: int = 1


def choose_config(num_rows: int, num_out: int, num_in: int) -> TuningConfig | None:
    """A configuration that occupies every multiprocessor, or None where there is none.

    In one round if possible, and with whole sums: each further term is written and read again.
    Measured on an H200 (docs/performance.md): [512, 3584] by [4608, 3584] 43.8 µs in 4 × 32 tiles,
    58.2 in twice as many with 4 terms, 55.0 by XLA.
    """
    if not ROWS_RANGE[0] <= num_rows <= ROWS_RANGE[1]:
        return None
    return next(configs(num_rows, num_out, num_in), None)


def configs(num_rows: int, num_out: int, num_in: int) -> Iterator[TuningConfig]:
    """Those that leave few multiprocessors without work, the best first."""
    if num_rows % BLOCK_ROWS or num_out % 8:
        return
    rows = num_rows // BLOCK_ROWS
    narrow = NARROW_TILE_OUT, TILE_OUT_RANGE[0] - 1
    for (least, most), rounds, splits in itertools.product(
        (TILE_OUT_RANGE, narrow), range(1, MAX_ROUNDS + 1), (1, 2, MAX_SPLITS)
    ):
        columns = rounds * NUM_CORES // (rows * splits)
        if columns == 0 or num_in % (64 * splits):
            continue
        tile_out = -(-num_out // (8 * columns)) * 8
        busy = rows * splits * num_out / (tile_out * rounds * NUM_CORES)
        if least <= tile_out <= most and busy >= MIN_BUSY:
            stages = RING_BYTES // (2 * 64 * (BLOCK_ROWS + tile_out))
            yield TuningConfig(tile_out, 64, min(stages, MAX_STAGES), num_splits=splits)


@partial(jax.jit, static_argnames=("config", "interpret"))
def tiled_product(
    x: Float[Array, "T in"],
    matrix: Float[Array, "out in"],
    *,
    config: TuningConfig,
    interpret: Any = None,
) -> Float[Array, "splits T out"]:
    """`x @ matrix.T` in float32 as terms, for rows in multiples of 64, of a 16-bit type.

    Args:
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.

    Raises:
        ValueError: a shape or type that the kernel does not take.
    """
    shape = (config.num_splits, x.shape[0], matrix.shape[0])
    out_type = jax.ShapeDtypeStruct(shape, jnp.float32)
    return run_tiles(x, matrix[None], out_type, config=config, interpret=interpret)


def run_tiles(
    x: Float[Array, "T in"],
    matrix: Float[Array, "parts out in"],
    out_type: jax.ShapeDtypeStruct,
    *,
    config: TuningConfig,
    interpret: Any,
) -> Array:
    """The kernel; of two parts the first is a gate, and `out_type` [1, T, out] of 16 bits.

    Raises:
        ValueError: a shape or type that the kernel does not take.
    """
    num_rows, num_in = x.shape
    num_parts, num_out = matrix.shape[:2]
    if x.dtype.itemsize != 2 or matrix.dtype != x.dtype:
        raise ValueError(f"both factors must have one 16-bit type, got {x.dtype}, {matrix.dtype}")
    stages, tile_out, tile_k = config.num_stages, config.tile_out, config.tile_k
    block = TILE_M * config.num_consumers
    if num_rows % block or num_in % (tile_k * config.num_splits):
        raise ValueError(f"{config} does not divide {x.shape}")
    if num_out < tile_out or num_out % 8:
        raise ValueError(f"{config} does not divide a matrix of {matrix.shape[1:]}")
    kwargs = {} if interpret is None else {"interpret": interpret}
    scratch: dict[str, Any] = {
        "x_smem": plgpu.SMEM((stages, block, tile_k), x.dtype, transforms=swizzled(2)),
        "matrix_smem": plgpu.SMEM(
            (stages, num_parts, tile_out, tile_k), x.dtype, transforms=swizzled(2)
        ),
        "full": plgpu.Barrier(num_arrivals=1 + num_parts, num_barriers=stages),
        "free": plgpu.Barrier(num_arrivals=config.num_consumers, num_barriers=stages),
    }
    if num_parts == 2:  # else the result is float32, whose rows are written by whole sectors anyway
        scratch["out_smem"] = plgpu.SMEM((config.num_consumers, TILE_M, tile_out), out_type.dtype)
    num_tiles = Tiles(num_rows, num_out, num_in, config).count
    result: Array = plgpu.kernel(
        partial(_kernel, config=config),
        out_type=out_type,
        grid=(min(num_tiles, NUM_CORES),),
        grid_names=("instance",),
        num_threads=config.num_consumers + 1,
        thread_name="warpgroup",
        kernel_name="gated_product" if num_parts == 2 else "tiled_product",
        scratch_types=scratch,
        **kwargs,
    )(x, matrix)
    return result


@dataclass(frozen=True)
class Tiles:
    """The tiles of a result [T, out] in their order."""

    num_rows: int
    num_out: int
    num_in: int
    config: TuningConfig

    @property
    def rows(self) -> int:
        """Tiles below each other."""
        return self.num_rows // (TILE_M * self.config.num_consumers)

    @property
    def count(self) -> int:
        """Of all splits."""
        return self.rows * self.config.num_splits * -(-self.num_out // self.config.tile_out)

    @property
    def steps(self) -> int:
        """Copies that a tile takes."""
        return self.num_in // (self.config.tile_k * self.config.num_splits)

    def place(self, tile: Any) -> tuple[Any, Any, Any]:
        """First row, first column and split of a tile.

        Tiles of the same columns and sums follow each other: their matrix is read from memory once.
        """
        config = self.config
        above, row = lax.div(tile, jnp.int32(self.rows)), lax.rem(tile, jnp.int32(self.rows))
        column = lax.div(above, jnp.int32(config.num_splits))
        first = jnp.minimum(column * config.tile_out, self.num_out - config.tile_out)
        return (
            pl.multiple_of(row * (TILE_M * config.num_consumers), TILE_M),
            pl.multiple_of(first, 8),
            lax.rem(above, jnp.int32(config.num_splits)),
        )


def _kernel(
    x_gmem: Any,  # [T, in]
    matrix_gmem: Any,  # [parts, out, in]
    out_gmem: Any,  # [splits, T, out]
    *,
    x_smem: Any,  # [stages, consumers * 64, tile_k]
    matrix_smem: Any,  # [stages, parts, tile_out, tile_k]
    full: Any,  # one a stage
    free: Any,
    out_smem: Any = None,  # [consumers, 64, tile_out]
    config: TuningConfig,
) -> None:
    instance, warpgroup = lax.axis_index("instance"), lax.axis_index("warpgroup")
    consumers, tile_k, stages = config.num_consumers, config.tile_k, jnp.int32(config.num_stages)
    num_parts = matrix_gmem.shape[0]
    tiles = Tiles(x_gmem.shape[0], matrix_gmem.shape[1], x_gmem.shape[1], config)
    steps = jnp.int32(tiles.steps)
    instances = min(tiles.count, NUM_CORES)
    num_own = lax.div(tiles.count - 1 - instance, jnp.int32(instances)) + 1

    def place(number: Any) -> tuple[Any, Any, Any]:
        return tiles.place(instance + number * instances)

    @pl.when(warpgroup == consumers)
    def _() -> None:
        plgpu.set_max_registers(REGISTERS[0], action="decrease")

        def fetch(step: Array, carry: None) -> None:
            row, column, split = place(lax.div(step, steps))
            stage = lax.rem(step, stages)
            begin = (split * steps + lax.rem(step, steps)) * tile_k
            columns = pl.ds(pl.multiple_of(begin, tile_k), tile_k)

            @pl.when(step >= stages)
            def _() -> None:
                plgpu.barrier_wait(free.at[stage])

            x_part = x_gmem.at[pl.ds(row, consumers * TILE_M), columns]
            plgpu.copy_gmem_to_smem(x_part, x_smem.at[stage], full.at[stage])
            for i in range(num_parts):
                part = matrix_gmem.at[i, pl.ds(column, config.tile_out), columns]
                plgpu.copy_gmem_to_smem(part, matrix_smem.at[stage, i], full.at[stage])

        def wait(step: Array, carry: None) -> None:
            plgpu.barrier_wait(free.at[lax.rem(step, stages)])

        num_steps = num_own * steps
        lax.fori_loop(0, num_steps, fetch, None)
        lax.fori_loop(jnp.maximum(num_steps - stages, 0), num_steps, wait, None)

    @pl.when(warpgroup < consumers)
    def _() -> None:
        plgpu.set_max_registers(REGISTERS[1], action="increase")
        own_rows = pl.ds(pl.multiple_of(warpgroup * TILE_M, TILE_M), TILE_M)

        def compute(number: Array, carry: None) -> None:
            def multiply(*accumulators: Any) -> tuple[Array, ...]:
                def step(i: Array, carry: None) -> None:
                    stage = lax.rem(number * steps + i, stages)
                    plgpu.barrier_wait(full.at[stage])
                    for part, acc_ref in enumerate(accumulators):
                        transposed = matrix_smem.at[stage, part].transpose((1, 0))
                        plgpu.wgmma(acc_ref, x_smem.at[stage, own_rows], transposed)
                    plgpu.wgmma_wait(num_parts)  # those of the step before are complete

                    @pl.when(i > 0)
                    def _() -> None:
                        plgpu.barrier_arrive(free.at[lax.rem(stage + stages - 1, stages)])

                lax.fori_loop(0, steps, step, None)
                plgpu.wgmma_wait(0)
                plgpu.barrier_arrive(free.at[lax.rem(number * steps + steps - 1, stages)])
                return tuple(acc_ref[...] for acc_ref in accumulators)

            sums = product(multiply, *[(TILE_M, config.tile_out)] * num_parts)
            row, column, split = place(number)
            rows = pl.ds(pl.multiple_of(row + warpgroup * TILE_M, TILE_M), TILE_M)
            out = out_gmem.at[split, rows, pl.ds(column, config.tile_out)]
            if out_smem is None:
                out[...] = sums[0].astype(out_gmem.dtype)
                return
            gate, up = sums
            own_smem = out_smem.at[warpgroup]
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # of the tile before
            own_smem[...] = silu_gate(gate, up).astype(own_smem.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(own_smem, out)

        lax.fori_loop(0, num_own, compute, None)
        plgpu.wait_smem_to_gmem(0)


def silu_gate(gate: Array, up: Array) -> Array:
    """silu(gate) * up in registers."""
    return gate * up / (1.0 + jnp.exp(-gate))
