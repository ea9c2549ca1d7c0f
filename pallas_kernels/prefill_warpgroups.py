"""The body of the prefill kernel: a warpgroup that fetches pages, others that attend to them."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from pallas_kernels.prefill_tile import Ring, Turns, attend_tile

# Registers of a thread of the fetching and of the computing warpgroups, by how many compute: a
# multiprocessor has 512 for one thread of each warpgroup together.
REGISTERS = {2: (40, 232), 3: (32, 160)}


def prefill_kernel(
    q_gmem: Any,  # [B, 64, K * rows, H]
    k_gmem: Any,  # [pages, K, page, H]
    v_gmem: Any,  # [pages, K, page, H]
    tables_gmem: Any,  # [B, P]
    first_page_gmem: Any,  # [1]
    starts_gmem: Any,  # [B]
    first_gmem: Any,  # [instances, consumers], as the next two: page_sharing.Shares
    num_steps_gmem: Any,
    num_pages_gmem: Any,
    out_gmem: Any,  # [B, 64, K * G, H]
    *,
    tile_smem: Any,  # [consumers, 64, H], the queries, then the result
    k_smem: Any,  # [stages, keys, H]
    v_smem: Any,  # [stages, keys, H]
    q_barrier: Any,  # one a consumer
    k_full: Any,
    v_full: Any,
    k_free: Any,
    v_free: Any,
    turn: Any = None,  # one a consumer, or None for no turns
    p_smem: Any = None,  # [consumers, 64, keys] to pass the weights through
    group: int,
) -> None:
    """One program instance: consecutive tiles of 64 queries and one head of a kv head's group."""
    consumers = tile_smem.shape[0]
    num_tiles = q_gmem.shape[0] * group
    # late blocks see the most keys: they start first, so that none of them is alone at the end
    instance = first_gmem.shape[0] - 1 - lax.axis_index("instance")
    kv_head, warpgroup = lax.axis_index("kv_head"), lax.axis_index("warpgroup")
    ring = Ring(k_smem, v_smem, k_full, v_full, k_free, v_free)
    few, many = REGISTERS[consumers]
    first = [first_gmem[instance, i] for i in range(consumers)]
    ends = [first[i] + num_steps_gmem[instance, i] for i in range(consumers)]
    num_steps = jnp.int32(0)
    for end in ends:
        num_steps = jnp.maximum(num_steps, end)

    def block_of(consumer: Any) -> Array:
        tile = jnp.minimum(instance * consumers + consumer, num_tiles - 1)
        return lax.div(tile, jnp.int32(group))

    @pl.when(warpgroup == consumers)
    def _() -> None:
        plgpu.set_max_registers(few, action="decrease")
        first_page = first_page_gmem[0]
        done = jnp.int32(0)
        for i in range(consumers):
            fetch = partial(
                _fetch,
                ring,
                k_gmem.at[:, kv_head],
                v_gmem.at[:, kv_head],
                tables_gmem.at[block_of(i)],
                first_page,
                first[i],
                num_pages_gmem[instance, i] - 1,
            )
            lax.fori_loop(done, ends[i], fetch, None)
            done = jnp.maximum(done, ends[i])
        lax.fori_loop(jnp.maximum(done - k_smem.shape[0], 0), done, partial(_wait_free, ring), None)

    @pl.when(warpgroup < consumers)
    def _() -> None:
        plgpu.set_max_registers(many, action="increase")
        tile = instance * consumers + warpgroup
        block = block_of(warpgroup)
        member = lax.rem(tile, jnp.int32(group))
        tile_ref = tile_smem.at[warpgroup]
        own = q_gmem.at[block, :, kv_head * (q_gmem.shape[2] // k_gmem.shape[1]) + member]
        plgpu.copy_gmem_to_smem(own, tile_ref, q_barrier.at[warpgroup])
        plgpu.barrier_wait(q_barrier.at[warpgroup])
        attend_tile(
            tile_ref,
            ring,
            Turns(turn, warpgroup),
            first_gmem[instance, warpgroup],
            num_steps_gmem[instance, warpgroup],
            done=num_steps,
            start=starts_gmem[block],
            p_ref=None if p_smem is None else p_smem.at[warpgroup],
        )
        plgpu.commit_smem()

        @pl.when(tile < num_tiles)
        def _() -> None:
            plgpu.copy_smem_to_gmem(tile_ref, out_gmem.at[block, :, kv_head * group + member])
            plgpu.wait_smem_to_gmem(0)


def _fetch(
    ring: Ring,
    k_gmem: Any,  # [pages, page, H]
    v_gmem: Any,  # [pages, page, H]
    table_gmem: Any,  # [P]
    first_page: Array,
    first: Array,
    last_page: Array,
    step: Array,
    _: None,
) -> None:
    """Starts the copies of a step of a context whose first step is `first`."""
    page_size = k_gmem.shape[1]
    pages_per_step = ring.k.shape[1] // page_size
    stage = ring.stage(step)
    # the last step may be longer than the context: the keys of a page that follows are masked
    places = [(step - first) * pages_per_step + i for i in range(pages_per_step)]
    pages = [first_page + table_gmem[jnp.minimum(place, last_page)] for place in places]
    for source, target, full, free in (
        (k_gmem, ring.k, ring.k_full, ring.k_free),
        (v_gmem, ring.v, ring.v_full, ring.v_free),
    ):

        @pl.when(step >= ring.k.shape[0])
        def _(free: Any = free) -> None:
            plgpu.barrier_wait(free.at[stage])

        for i, page in enumerate(pages):
            part = target.at[stage, pl.ds(i * page_size, page_size)]
            plgpu.copy_gmem_to_smem(source.at[page], part, full.at[stage])


def _wait_free(ring: Ring, step: Array, _: None) -> None:
    """Waits until everybody is done with a step."""
    plgpu.barrier_wait(ring.k_free.at[ring.stage(step)])
    plgpu.barrier_wait(ring.v_free.at[ring.stage(step)])
