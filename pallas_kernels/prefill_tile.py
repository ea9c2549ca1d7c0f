"""Attention of one warpgroup's tile of 64 queries to a stream of pages that others read as well."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from pallas_kernels.online_softmax import (
    TILE_M,
    Sums,
    add_product,
    hide,
    no_sums,
    product,
    softmax_step,
    spread,
)


@dataclass(frozen=True)
class Ring:
    """Steps of pages on their way through shared memory.

    Attributes:
        k, v: [stages, keys, H]
        k_full, v_full: one a stage, passed when a step's pages are there.
        k_free, v_free: one a stage, passed when every consumer is done with them.
    """

    k: Any
    v: Any
    k_full: Any
    v_full: Any
    k_free: Any
    v_free: Any

    def stage(self, step: Array) -> Array:
        """Where a step lies."""
        return lax.rem(step, jnp.int32(self.k.shape[0]))


@dataclass(frozen=True)
class Turns:
    """Whose products the matrix unit takes next, so that one softmax runs beside others' products.

    Every consumer has as many turns as the stream has steps.

    Attributes:
        barriers: one a consumer, passed when it is its turn; None for no turns.
        consumer: this one.
    """

    barriers: Any
    consumer: Array

    def open(self) -> None:
        """The last consumer gives the first one its first turn."""
        if self.barriers is not None:
            pl.when(self.consumer == self.barriers.shape[0] - 1)(self.give)

    def take(self) -> None:
        """Waits for this consumer's turn."""
        if self.barriers is not None:
            plgpu.barrier_wait(self.barriers.at[self.consumer])

    def give(self) -> None:
        """Gives the turn to the next consumer."""
        if self.barriers is not None:
            after = lax.rem(self.consumer + 1, jnp.int32(self.barriers.shape[0]))
            plgpu.barrier_arrive(self.barriers.at[after])

    def close(self) -> None:
        """The first consumer takes the turn that is left."""
        if self.barriers is not None:
            pl.when(self.consumer == 0)(self.take)


def attend_tile(
    tile_ref: Any,  # [64, H], the queries, then the result
    ring: Ring,
    turns: Turns,
    first: Array,
    count: Array,
    *,
    done: Array,
    start: Array,
    p_ref: Any,  # [64, keys]
) -> None:
    """Softmax attention to `count` steps from `first` on of a stream of `done` steps, causal.

    Args:
        count: 0 gives zeros.
        start: position of the first query.
        p_ref: to pass the weights through, or None to keep them in registers, which the
            interpreter cannot.
    """

    def pass_by(step: Array, _: None) -> None:
        stage = ring.stage(step)
        plgpu.barrier_wait(ring.k_full.at[stage])
        plgpu.barrier_arrive(ring.k_free.at[stage])
        plgpu.barrier_wait(ring.v_full.at[stage])
        plgpu.barrier_arrive(ring.v_free.at[stage])
        turns.take()
        turns.give()

    turns.open()
    lax.fori_loop(0, first, pass_by, None)

    @pl.when(count > 0)
    def _() -> None:
        tile = _Tile(tile_ref, ring, turns, first, count, start, p_ref)
        sums = tile.attend()
        inverse = 1 / jnp.maximum(sums.total, 1e-30)
        tile_ref[...] = (sums.acc * spread(inverse, sums.acc.shape)).astype(tile_ref.dtype)

    @pl.when(count <= 0)
    def _() -> None:
        tile_ref[...] = jnp.zeros(tile_ref.shape, tile_ref.dtype)

    lax.fori_loop(first + count, done, pass_by, None)
    turns.close()


@dataclass(frozen=True)
class _Tile:
    q: Any
    ring: Ring
    turns: Turns
    first: Array
    count: Array
    start: Array
    p: Any

    @property
    def num_open(self) -> Array:
        """Steps that every query sees to their end."""
        return jnp.minimum(lax.div(self.start + 1, jnp.int32(self.ring.k.shape[1])), self.count)

    def stage(self, i: Array | int) -> Array:
        """Where the tile's i-th step lies."""
        return self.ring.stage(self.first + i)

    def multiply_keys(self, acc_ref: Any, i: Array | int) -> None:
        """Starts the product of the queries and the i-th step's keys."""
        plgpu.wgmma(acc_ref, self.q, self.ring.k.at[self.stage(i)].transpose((1, 0)))

    def multiply_values(self, acc_ref: Any, weights: Array, i: Array | int) -> None:
        """Starts the product of the weights and the i-th step's values."""
        plgpu.wgmma(acc_ref, weights if self.p is None else self.p, self.ring.v.at[self.stage(i)])

    def softmax(
        self, scores: Array, sums: Sums, i: Array | int, *, causal: bool
    ) -> tuple[Array, Array, Array, Array]:
        """`softmax_step` of the i-th step, the weights rounded and where the product wants them."""
        if causal:
            before = self.start - i * self.ring.k.shape[1]
            scores = hide(scores, lambda row, key: key > row + before)
        weights, shrink, top, total = softmax_step(scores, sums)
        narrow = weights.astype(self.q.dtype)
        if self.p is not None:
            self.p[...] = narrow
            plgpu.commit_smem()
        return narrow, shrink, top, total

    def attend(self) -> Sums:
        """Scores, softmax and values of one step after another."""
        ring, turns = self.ring, self.turns

        def step(i: Array, sums: Sums, *, causal: bool) -> Sums:
            def multiply(acc_ref: Any) -> Array:
                self.multiply_keys(acc_ref, i)
                pl.when(i > 0)(turns.give)
                return acc_ref[...]

            scores = product(multiply, (TILE_M, ring.k.shape[1]))
            plgpu.barrier_arrive(ring.k_free.at[self.stage(i)])
            weights, shrink, top, total = self.softmax(scores, sums, i, causal=causal)
            acc = sums.acc * spread(shrink, sums.acc.shape)
            # what is left of the softmax must not move into the turn
            acc, top, total, weights = lax.optimization_barrier((acc, top, total, weights))
            plgpu.barrier_wait(ring.v_full.at[self.stage(i)])
            turns.take()

            def multiply_values(acc_ref: Any) -> None:
                self.multiply_values(acc_ref, weights, i)

                @pl.when(i + 1 < self.count)
                def _() -> None:
                    plgpu.barrier_wait(ring.k_full.at[self.stage(i + 1)])

            acc = add_product(acc, multiply_values, in_place=self.p is None)
            plgpu.barrier_arrive(ring.v_free.at[self.stage(i)])
            return Sums(acc, top, total)

        plgpu.barrier_wait(ring.k_full.at[self.stage(0)])
        sums = no_sums(self.q.shape[1])
        sums = lax.fori_loop(0, self.num_open, partial(step, causal=False), sums)
        sums = lax.fori_loop(self.num_open, self.count, partial(step, causal=True), sums)
        turns.give()
        return sums
