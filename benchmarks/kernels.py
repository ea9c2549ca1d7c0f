"""Each attention kernel against its floor, many calls in one program over rotating pages.

python -m benchmarks.kernels
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.hopper_attention import hopper_attention
from pallas_kernels.paged_attention import paged_attention

COPY_BYTES = 4.16e12  # a second, an H200's copy ceiling, read and written
BF16_FLOPS = 790e12  # a second, its 8192³ product
KV_HEADS, GROUP, HEAD_DIM, PAGE = 4, 7, 128, 64  # Qwen2.5-7B
LAYERS = 8  # calls in one program, each over its own pages

DECODE = ((1, 512), (1, 32768), (8, 2048), (32, 1024), (32, 8192), (128, 512), (128, 2048))
PREFILL = ((512, 512), (2048, 2048), (2048, 8192))


def seconds_a_call(run: Callable[..., Array], *operands: Array) -> float:
    """Median time of one of the calls in a program of LAYERS."""

    @jax.jit
    def program(*operands: Array) -> Array:
        q, *others = operands
        for layer in range(LAYERS):
            q = q + run(q, *others, layer).astype(q.dtype) * 0.01
        return q

    program(*operands).block_until_ready()
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(4):
            out = program(*operands)
        out.block_until_ready()
        times.append((time.perf_counter() - begin) / 4 / LAYERS)
    return statistics.median(times)


def operands(rows: int, block_q: int, pages_each: int) -> tuple[Array, ...]:
    """Queries, pages of all layers, and a shuffled table."""
    num_pages = rows * pages_each + 1
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (LAYERS * num_pages, KV_HEADS, PAGE, HEAD_DIM)
    q = jax.random.normal(keys[0], (rows, block_q, KV_HEADS, GROUP, HEAD_DIM), jnp.bfloat16)
    k, v = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys[1:3])
    order = jax.random.permutation(keys[3], jnp.arange(1, num_pages, dtype=jnp.int32))
    return q * HEAD_DIM**-0.5, k, v, order.reshape(rows, pages_each)


def on_layer(attend: Any, num_pages: int) -> Callable[..., Array]:
    """The same call on another layer's pages."""

    def run(q: Array, k: Array, v: Array, tables: Array, positions: Array, layer: int) -> Array:
        return attend(q, k, v, tables + layer * num_pages, positions)

    return run


def main() -> None:
    """Prints a line for each shape and implementation."""
    implementations = {"Mosaic GPU": hopper_attention, "plain XLA": paged_attention}
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {LAYERS} calls a program")
    for rows, context in DECODE:
        q, k, v, tables = operands(rows, 1, context // PAGE)
        positions = jnp.full((rows, 1), context - 1, jnp.int32)
        num_bytes = 2 * rows * context * KV_HEADS * HEAD_DIM * 2
        for name, attend in implementations.items():
            run = on_layer(attend, rows * context // PAGE + 1)
            seconds = seconds_a_call(run, q, k, v, tables, positions)
            print(
                f"decode {rows:4} × {context:6} {name:11} {seconds * 1e6:8.1f} µs, "
                f"{num_bytes / seconds / 1e12:5.2f} TB/s, "
                f"floor {num_bytes / COPY_BYTES * 1e6:6.1f}",
                flush=True,
            )
    for tokens, context in PREFILL:
        blocks = tokens // PAGE
        q, k, v, _ = operands(blocks, PAGE, context // PAGE)
        tables = jnp.tile(jnp.arange(1, context // PAGE + 1, dtype=jnp.int32), (blocks, 1))
        positions = context - tokens + jnp.arange(tokens, dtype=jnp.int32).reshape(blocks, PAGE)
        seen = tokens * (context - tokens) + tokens * tokens / 2
        flops = 4 * seen * KV_HEADS * GROUP * HEAD_DIM
        for name, attend in implementations.items():
            run = on_layer(attend, context // PAGE + 1)
            seconds = seconds_a_call(run, q, k, v, tables, positions)
            print(
                f"prefill {tokens:4} of {context:6} {name:11} {seconds * 1e6:8.1f} µs, "
                f"{flops / seconds / 1e12:5.0f} TFLOP/s, floor {flops / BF16_FLOPS * 1e6:6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
