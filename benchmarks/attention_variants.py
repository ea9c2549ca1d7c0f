"""Every way to build the attention kernels, checked against float32 and timed, a process for each.

python -m benchmarks.attention_variants [--lock FILE] [VARIANT ...]
"""

import argparse
import fcntl
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pallas_kernels.paged_attention import paged_attention_reference
from pallas_kernels.paged_decode import TuningConfig as DecodeConfig
from pallas_kernels.paged_decode import paged_decode
from pallas_kernels.paged_prefill import TuningConfig, paged_prefill

KV_HEADS, GROUP, HEAD_DIM, PAGE = 4, 7, 128, 64  # Qwen2.5-7B
CALLS = 20  # in one program, each with an input that needs the result of the call before
PROCESSES = 6  # at once
TIMEOUT = 120  # seconds for a variant; one that hangs or faults must not take the others along

PREFILL = {
    "2 × 128 keys, turns": TuningConfig(),
    "2 × 128 keys": TuningConfig(take_turns=False),
    "2 × 64 keys × 4, turns": TuningConfig(pages_per_step=1, num_stages=4),
    "3 × 64 keys × 4, turns": TuningConfig(3, pages_per_step=1, num_stages=4),
    "3 × 64 keys × 4": TuningConfig(3, pages_per_step=1, num_stages=4, take_turns=False),
}
# splits, steps in flight, items of an instance, pages of a step
DECODE = {
    f"decode, {splits} splits × {stages}, {items} × {pages} pages": DecodeConfig(
        splits, stages, items, pages
    )
    for splits, stages, items, pages in (
        *((32, 5, 1, 1), (32, 2, 1, 2), (64, 2, 1, 1), (64, 2, 1, 2), (16, 5, 1, 1)),
        *((8, 5, 1, 1), (4, 5, 1, 1), (4, 2, 1, 2), (8, 2, 1, 1), (2, 2, 1, 1), (1, 5, 1, 1)),
        *((1, 2, 2, 1), (1, 2, 1, 1), (1, 5, 4, 1), (1, 2, 4, 2), (1, 1, 2, 2), (1, 3, 4, 1)),
    )
}
NUM_CORES = 132
DENSE = ("jax attention_mgpu", "jax cudnn")

# requests, queries of each, context of each at their end
PREFILL_CASES = {
    "8,192": (1, 8192, 8192),
    "2,048 of 8,192": (1, 2048, 8192),
    "4 × 512": (4, 512, 512),
}
DECODE_CASES = {
    "1 × 32,768": (1, 32768),
    "8 × 4,096": (8, 4096),
    "32 × 1,024": (32, 1024),
    "128 × 640": (128, 640),
}


def prefill_operands(requests: int, queries: int, context: int) -> tuple[Array, ...]:
    """Queries in blocks, shuffled pages, their tables, starts and lengths of the blocks."""
    keys = jax.random.split(jax.random.key(0), 4)
    pages, blocks = -(-context // PAGE), -(-queries // PAGE)
    shape = (requests * pages + 1, KV_HEADS, PAGE, HEAD_DIM)
    q = jax.random.normal(
        keys[0], (requests * blocks, PAGE, KV_HEADS, GROUP, HEAD_DIM), jnp.bfloat16
    )
    k, v = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys[1:3])
    order = jax.random.permutation(keys[3], jnp.arange(1, shape[0], dtype=jnp.int32))
    tables = jnp.repeat(order.reshape(requests, pages), blocks, axis=0)
    offsets = jnp.tile(PAGE * jnp.arange(blocks, dtype=jnp.int32), requests)
    lengths = jnp.minimum(queries - offsets, PAGE)
    return q * HEAD_DIM**-0.5, k, v, tables, context - queries + offsets, lengths


def decode_operands(requests: int, context: int) -> tuple[Array, ...]:
    """One query a request, shuffled pages, their tables, and the lengths."""
    q, k, v, tables, _, _ = prefill_operands(requests, 1, context)
    return q[:, 0], k, v, tables, jnp.full(requests, context, jnp.int32)


def dense_operands(requests: int, queries: int, context: int, dtype: Any) -> tuple[Array, ...]:
    """Queries, keys and values of whole prompts."""
    keys = jax.random.split(jax.random.key(0), 3)
    heads = (KV_HEADS * GROUP, KV_HEADS, KV_HEADS)
    q, k, v = (
        jax.random.normal(key, (requests, context, n, HEAD_DIM), dtype)
        for key, n in zip(keys, heads, strict=True)
    )
    return q[:, -queries:] * HEAD_DIM**-0.5, k, v


def relative_error(ours: Array, reference: Array) -> float:
    """Euclidean, over all numbers."""
    return float(jnp.linalg.norm(ours - reference) / jnp.linalg.norm(reference))


def prefill_error(run: Callable[..., Array]) -> float:
    """Against the reference in float32: ends of two contexts, within a page, and whole prompts."""
    errors = []
    for case in ((2, 300, 1000), (3, 192, 192)):
        q, k, v, tables, starts, lengths = prefill_operands(*case)
        place = jnp.arange(PAGE)
        positions = jnp.where(place < lengths[:, None], starts[:, None] + place, -1)
        out = run(q, k, v, tables, starts, lengths).astype(jnp.float32)
        reference = paged_attention_reference(q.astype(jnp.float32), k, v, tables, positions)
        counted = (positions >= 0)[:, :, None, None, None]
        errors.append(relative_error(jnp.where(counted, out, 0), reference))
    return max(errors)


def decode_error(run: Callable[..., Array]) -> float:
    """Against the reference in float32."""
    q, k, v, tables, lengths = decode_operands(3, 1000)
    positions = (lengths - 1)[:, None]
    reference = paged_attention_reference(q[:, None].astype(jnp.float32), k, v, tables, positions)
    return relative_error(run(q, k, v, tables, lengths).astype(jnp.float32), reference[:, 0])


def fills(config: DecodeConfig, requests: int) -> bool:
    """Whether a device's multiprocessors have one instance at least, and few ones wait."""
    instances = requests * KV_HEADS * config.num_splits / config.num_items
    return 0.9 * NUM_CORES <= instances <= 4 * NUM_CORES


def seconds_a_call(run: Callable[..., Array], lock: Path, *operands: Array) -> float:
    """Median time of one of the calls in a program of CALLS, while no other process measures."""

    @jax.jit
    def program(q: Array, *others: Array) -> Array:
        corner = (0,) * q.ndim
        for _ in range(CALLS):
            q = q.at[corner].add(0.01 * run(q, *others)[corner])
        return q

    compiled = program.lower(*operands).compile()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        compiled(*operands).block_until_ready()
        times = []
        for _ in range(10):
            begin = time.perf_counter()
            compiled(*operands).block_until_ready()
            times.append((time.perf_counter() - begin) / CALLS)
    return statistics.median(times)


def flops(requests: int, queries: int, context: int) -> float:
    """Of both products, for the keys that each query sees."""
    seen = queries * (context - queries) + queries * (queries + 1) / 2
    return 4 * requests * seen * KV_HEADS * GROUP * HEAD_DIM


def dense(name: str) -> tuple[Callable[..., Array], Any]:
    """An attention of JAX's over whole prompts, and the type it takes."""
    if name == "jax cudnn":
        return (
            lambda q, k, v: jax.nn.dot_product_attention(
                q, k, v, scale=1.0, is_causal=True, implementation="cudnn"
            )
        ), jnp.bfloat16
    from jax.experimental.pallas.ops.gpu import attention_mgpu

    config = attention_mgpu.TuningConfig(64, 128, 2, causal=True)
    return lambda q, k, v: attention_mgpu.attention(q, k, v, config), jnp.float16


def measure(name: str, lock: Path) -> None:
    """Prints a variant's error, and its time and speed in each case."""
    cells = []
    if name in DECODE:

        def run(*operands: Array) -> Array:
            return paged_decode(*operands, config=DECODE[name])

        error = decode_error(run)
        for case, (requests, context) in DECODE_CASES.items():
            if not fills(DECODE[name], requests):
                cells.append(f"{case}: {'–':>21}")
                continue
            seconds = seconds_a_call(run, lock, *decode_operands(requests, context))
            speed = 4 * requests * context * KV_HEADS * HEAD_DIM / seconds / 1e12
            cells.append(f"{case}: {seconds * 1e6:7.1f} µs {speed:5.2f} TB/s")
    elif name in PREFILL:

        def run(*operands: Array) -> Array:
            return paged_prefill(*operands, config=PREFILL[name])

        error = prefill_error(run)
        for case, sizes in PREFILL_CASES.items():
            seconds = seconds_a_call(run, lock, *prefill_operands(*sizes))
            speed = flops(*sizes) / seconds / 1e12
            cells.append(f"{case}: {seconds * 1e3:6.3f} ms {speed:4.0f} TFLOP/s")
    else:
        run, dtype = dense(name)
        error = np.nan
        for case, sizes in PREFILL_CASES.items():
            if sizes[1] != sizes[2]:
                cells.append(f"{case}: {'–':>21}")
                continue
            seconds = seconds_a_call(run, lock, *dense_operands(*sizes, dtype))
            speed = flops(*sizes) / seconds / 1e12
            cells.append(f"{case}: {seconds * 1e3:6.3f} ms {speed:4.0f} TFLOP/s")
    print(f"{name:30} error {error:.1e} | {' | '.join(cells)}", flush=True)


def measure_apart(name: str, lock: Path) -> str:
    """The line of a variant that is measured in a process of its own, or why there is none."""
    command = [sys.executable, "-m", "benchmarks.attention_variants", "--lock", str(lock), name]
    shared = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=shared)
    except subprocess.TimeoutExpired:
        return f"{name:30} did not end in {TIMEOUT} s"
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    if done.returncode:
        errors = [line for line in lines if "Error" in line] or lines or ["no output"]
        return f"{name:30} failed ({done.returncode}): {errors[-1][:200]}"
    return lines[-1]


def main() -> None:
    """Measures one variant here, or several in a process each: they compile side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lock", type=Path, help="who measures holds it")
    known = [*PREFILL, *DENSE, *DECODE]
    parser.add_argument("names", nargs="*", metavar="VARIANT", help="; ".join(known))
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no variant {unknown[0]!r}; there are: {'; '.join(known)}")
    with tempfile.NamedTemporaryFile() as file, ThreadPoolExecutor(PROCESSES) as pool:
        lock = options.lock or Path(file.name)
        if len(options.names) == 1:
            measure(options.names[0], lock)
            return
        for line in pool.map(lambda name: measure_apart(name, lock), options.names or known):
            print(line, flush=True)


if __name__ == "__main__":
    main()
