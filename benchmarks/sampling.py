"""What choosing the tokens costs, by kind of sampling and number of rows.

python -m benchmarks.sampling [--rows 1 32 128] [--vocab 152064]

The sample program of a step without the output matrix; some calls in one program, each with scores
that need the token chosen before. The floor is reading the scores once at the ceiling of an H200.
"""

import argparse
import statistics
import time
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from runtime.buckets import SampleMode
from runtime.slots import SlotState, empty_slots
from runtime.step import sample

COPY_BYTES = 4.16e12  # a second
CALLS = 8  # in one program

# temperature, top_k, top_p, min_p: what needs the mode
PARAMS = {
    SampleMode.GREEDY: (0.0, 0, 1.0, 0.0),
    SampleMode.CANDIDATES: (0.7, 40, 0.9, 0.05),
    SampleMode.UNLIMITED: (0.7, 0, 1.0, 0.0),
    SampleMode.LIMITED: (0.7, 0, 0.9, 0.05),
    SampleMode.FULL: (0.7, 200, 0.9, 0.05),
}


def slots_of(num_rows: int, vocab: int, mode: SampleMode) -> SlotState:
    """Requests that ask for `PARAMS`, each with its seed."""
    temperature, top_k, top_p, min_p = PARAMS[mode]
    values = jnp.array([temperature, top_p, min_p], jnp.float32)
    slot = jnp.arange(num_rows)
    rows = jnp.stack([slot, 100 + slot, jnp.zeros_like(slot), jnp.full_like(slot, -1)], axis=1)
    state = empty_slots(num_rows, pages_per_request=1, vocab_size=vocab)
    return replace(
        state,
        samples=state.samples.at[:num_rows].set(rows),
        seeds=jnp.arange(3 * num_rows, dtype=jnp.uint32).reshape(-1, 3),
        top_k=jnp.full(num_rows, top_k, jnp.int32),
        sampling=jnp.tile(values, (num_rows, 1)),
    )


def seconds_a_call(num_rows: int, vocab: int, mode: SampleMode) -> float:
    """Median time of a call, and of making its scores from others: an addition."""
    logits = 3 * jax.random.normal(jax.random.key(0), (num_rows, vocab), jnp.float32)
    mask = None
    if mode is SampleMode.FULL:
        mask = jnp.full((num_rows, -(-vocab // 32)), -1, jnp.int32)

    @partial(jax.jit, donate_argnums=0)
    def program(state: SlotState, logits: Array) -> tuple[SlotState, Array]:
        token = jnp.int32(0)
        for _ in range(CALLS):
            scores = jax.lax.optimization_barrier(logits + 1e-9 * token)
            state, result = sample(
                _same, state, scores, mask, num_rows=num_rows, parts=None, mode=mode
            )
            token = result[0, 0]
        return state, token

    state, token = program(slots_of(num_rows, vocab, mode), logits)
    token.block_until_ready()
    times = []
    for _ in range(15):
        begin = time.perf_counter()
        state, token = program(state, logits)
        token.block_until_ready()
        times.append((time.perf_counter() - begin) / CALLS)
    return statistics.median(times)


def _same(scores: Array) -> Array:
    """For the output matrix, whose product is no part of this, and for one device."""
    return scores


def main() -> None:
    """Prints a line for each kind and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--vocab", type=int, default=152_064)
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {CALLS} calls a program")
    for mode in SampleMode:
        for num_rows in options.rows:
            seconds = seconds_a_call(num_rows, options.vocab, mode)
            floor = 4 * num_rows * options.vocab / COPY_BYTES
            print(
                f"{mode.label:11} {num_rows:4} rows {seconds * 1e6:9.1f} µs, "
                f"with an addition to the scores; floor {floor * 1e6:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
