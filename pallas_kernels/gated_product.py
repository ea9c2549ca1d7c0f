"""silu(x @ gate.T) * (x @ up.T) as one kernel on Hopper.

XLA writes both products to memory and reads them again; at 128 rows that is a kernel more, at some
thousand a tenth of the time. One warpgroup fetches both matrices and `x` through a ring in shared
memory, the others multiply, 64 rows of `x` each, and keep both results in registers until they are
one. Columns are cut so that a step of 128 rows occupies every multiprocessor once.
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

NUM_CORES = 132
# Registers of a thread of the fetching and of the computing warpgroups.
REGISTERS = (40, 232)
# Both results of a tile lie in a warpgroup's registers: 2 * 64 * 160 / 128 = 160 of a thread.
MAX_TILE_OUT = 160


@dataclass(frozen=True)
class TuningConfig:
    """How the work is cut.

    Attributes:
        tile_out: columns of the result in one tile; the last tile begins early enough to be whole.
        tile_k: columns of both factors in one copy.
        num_stages: copies in flight.
        num_consumers: warpgroups that multiply, each 64 rows.
        num_sharing: neighbours, 1 or 2, that fetch `x` together: each half, for both.
    """

    tile_out: int = 144
    tile_k: int = 64
    num_stages: int = 3
    num_consumers: int = 2
    num_sharing: int = 1


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
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.

    Raises:
        ValueError: a shape or type that the kernel does not take.
    """
    num_rows, num_in = x.shape
    num_out = matrix.shape[1]
    block = TILE_M * config.num_consumers
    if x.dtype.itemsize != 2 or matrix.dtype != x.dtype:
        raise ValueError(f"both factors must have one 16-bit type, got {x.dtype}, {matrix.dtype}")
    if num_rows % block or num_in % config.tile_k or num_out < config.tile_out or num_out % 8:
        raise ValueError(f"{config} does not divide {x.shape} times {matrix.shape}")
    stages, tile_out, tile_k = config.num_stages, config.tile_out, config.tile_k
    free: dict[str, Any] = {"num_arrivals": config.num_consumers, "num_barriers": stages}
    kwargs = {} if interpret is None else {"interpret": interpret}
    result: Array = plgpu.kernel(
        partial(_kernel, config=config),
        out_type=jax.ShapeDtypeStruct((num_rows, num_out), x.dtype),
        grid=(min(num_tiles(num_rows, num_out, config), NUM_CORES // config.num_sharing),),
        grid_names=("instance",),
        cluster=(config.num_sharing,),
        cluster_names=("neighbour",),
        num_threads=config.num_consumers + 1,
        thread_name="warpgroup",
        kernel_name="gated_product",
        scratch_types=[
            plgpu.SMEM((stages, block, tile_k), x.dtype, transforms=swizzled(2)),
            plgpu.SMEM((stages, 2, tile_out, tile_k), x.dtype, transforms=swizzled(2)),
            plgpu.SMEM((config.num_consumers, TILE_M, tile_out), x.dtype),
            plgpu.Barrier(num_arrivals=3, num_barriers=stages),
            plgpu.Barrier(**free)
            if config.num_sharing == 1
            else plgpu.ClusterBarrier(collective_axes=("neighbour",), **free),
        ],
        **kwargs,
    )(x, matrix)
    return result


def num_tiles(num_rows: int, num_out: int, config: TuningConfig) -> int:
    """Tiles of the result, those of neighbours counted as one."""
    columns = config.tile_out * config.num_sharing
    return num_rows // (TILE_M * config.num_consumers) * -(-num_out // columns)


def _kernel(
    x_gmem: Any,  # [T, in]
    matrix_gmem: Any,  # [2, out, in]
    out_gmem: Any,  # [T, out]
    x_smem: Any,  # [stages, consumers * 64, tile_k]
    matrix_smem: Any,  # [stages, 2, tile_out, tile_k]
    out_smem: Any,  # [consumers, 64, tile_out]
    full: Any,  # one a stage
    free: Any,
    *,
    config: TuningConfig,
) -> None:
    instance, warpgroup = lax.axis_index("instance"), lax.axis_index("warpgroup")
    consumers, stages, tile_k = config.num_consumers, config.num_stages, config.tile_k
    num_rows, num_in = x_gmem.shape
    num_out = matrix_gmem.shape[1]
    steps = num_in // tile_k
    row_tiles = num_rows // (consumers * TILE_M)
    tiles = num_tiles(num_rows, num_out, config)
    instances = min(tiles, NUM_CORES // config.num_sharing)
    num_own = lax.div(tiles - 1 - instance, jnp.int32(instances)) + 1

    def place(number: Any) -> tuple[Array, Array]:
        """First row and column of one of this instance's tiles.

        Tiles of the same columns follow each other: their matrix is read once from memory.
        """
        tile = instance + number * instances
        own = lax.axis_index("neighbour")
        column = (lax.div(tile, jnp.int32(row_tiles)) * config.num_sharing + own) * config.tile_out
        row = lax.rem(tile, jnp.int32(row_tiles)) * (consumers * TILE_M)
        return row, pl.multiple_of(jnp.minimum(column, num_out - config.tile_out), 8)

    @pl.when(warpgroup == consumers)
    def _() -> None:
        plgpu.set_max_registers(REGISTERS[0], action="decrease")

        def fetch(step: Array, carry: None) -> None:
            row, column = place(lax.div(step, jnp.int32(steps)))
            stage = lax.rem(step, jnp.int32(stages))
            columns = pl.ds(
                pl.multiple_of(lax.rem(step, jnp.int32(steps)) * tile_k, tile_k), tile_k
            )

            @pl.when(step >= stages)
            def _() -> None:
                plgpu.barrier_wait(free.at[stage])

            x_part = x_gmem.at[pl.ds(pl.multiple_of(row, TILE_M), consumers * TILE_M), columns]
            both = None if config.num_sharing == 1 else "neighbour"
            plgpu.copy_gmem_to_smem(x_part, x_smem.at[stage], full.at[stage], collective_axes=both)
            for half in range(2):
                part = matrix_gmem.at[half, pl.ds(column, config.tile_out), columns]
                plgpu.copy_gmem_to_smem(part, matrix_smem.at[stage, half], full.at[stage])

        num_steps = num_own * steps
        lax.fori_loop(0, num_steps, fetch, None)

        def wait(step: Array, carry: None) -> None:
            plgpu.barrier_wait(free.at[lax.rem(step, jnp.int32(stages))])

        lax.fori_loop(jnp.maximum(num_steps - stages, 0), num_steps, wait, None)

    @pl.when(warpgroup < consumers)
    def _() -> None:
        plgpu.set_max_registers(REGISTERS[1], action="increase")
        own_rows = pl.ds(pl.multiple_of(warpgroup * TILE_M, TILE_M), TILE_M)

        def compute(number: Array, carry: None) -> None:
            def multiply(gate_ref: Any, up_ref: Any) -> tuple[Array, Array]:
                def step(i: Array, carry: None) -> None:
                    stage = lax.rem(number * steps + i, jnp.int32(stages))
                    plgpu.barrier_wait(full.at[stage])
                    rows = x_smem.at[stage, own_rows]
                    for half, acc_ref in enumerate((gate_ref, up_ref)):
                        part = matrix_smem.at[stage, half].transpose((1, 0))
                        plgpu.wgmma(acc_ref, rows, part)
                    plgpu.wgmma_wait(2)  # those of the step before are complete

                    @pl.when(i > 0)
                    def _() -> None:
                        plgpu.barrier_arrive(
                            free.at[lax.rem(stage + stages - 1, jnp.int32(stages))]
                        )

                lax.fori_loop(0, steps, step, None)
                plgpu.wgmma_wait(0)
                plgpu.barrier_arrive(
                    free.at[lax.rem(number * steps + steps - 1, jnp.int32(stages))]
                )
                return gate_ref[...], up_ref[...]

            gate, up = product(multiply, *[(TILE_M, config.tile_out)] * 2)
            act = gate * up / (1.0 + jnp.exp(-gate))
            own_smem = out_smem.at[warpgroup]
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # of the tile before
            own_smem[...] = act.astype(own_smem.dtype)
            plgpu.commit_smem()
            row, column = place(number)
            into = pl.ds(pl.multiple_of(row + warpgroup * TILE_M, TILE_M), TILE_M)
            plgpu.copy_smem_to_gmem(own_smem, out_gmem.at[into, pl.ds(column, config.tile_out)])

        lax.fori_loop(0, num_own, compute, None)
        plgpu.wait_smem_to_gmem(0)
