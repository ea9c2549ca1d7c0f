"""The products of a layer by number of rows, each way to make them, against the floor.

python -m benchmarks.products [--rows 128 512 …] [--only gate_up …]

A program holds several calls over matrices of their own, each with an input that needs the result
before, and what reads the result in a step: the addition and norm, or the gate. A GPU's times.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pallas_kernels.add_norm import hopper_add_norm
from pallas_kernels.few_rows import MAX_ROWS, choose_config, few_rows_product
from pallas_kernels.gated_product import choose_config as choose_gated
from pallas_kernels.gated_product import gated_product, hopper_gated_product
from pallas_kernels.multiply import hopper_multiply, narrow_product, split_product
from pallas_kernels.tiled_product import NUM_CORES, Tiles, TuningConfig, tiled_product

COPY_BYTES = 4.16e12  # a second, an H200's copy ceiling
BF16_FLOPS = 790e12  # a second, its 8192³ product
# [out, in] of Qwen2.5-7B
SHAPES = {
    "qkv": (4608, 3584),
    "out": (3584, 3584),
    "down": (3584, 18944),
    "gate_up": (37888, 3584),
}
CALLS = 6  # in one program
RING_BYTES = 200_000  # of a multiprocessor's 227 KiB
TOLERANCE = 8e-3  # of the norm, a 16-bit result against float32

# make(x [T, in], matrix) -> terms [terms, T, out], or for gate_up [T, out / 2]
type Make = Callable[[Array, Array], Array]


def ways(name: str, num_rows: int) -> dict[str, Make]:
    """Every way to make this product, by name."""
    num_out, num_in = SHAPES[name]
    if name == "gate_up":
        return gated_ways(num_rows, num_out // 2, num_in)
    found: dict[str, Make] = {
        "as served": partial(hopper_multiply, narrow=True),
        "XLA, 16-bit": lambda x, matrix: narrow_product(x, matrix)[None],
    }
    for splits in (2, 4, 8):
        if num_in % (64 * splits) == 0:
            found[f"XLA, {splits} terms"] = partial(split_product, splits=splits)
    config = choose_config(num_out, num_in)
    if num_rows <= MAX_ROWS and config is not None:
        found["few rows"] = partial(few_rows_product, config=config)
    for tiled in tiled_configs(num_rows, num_out, num_in):
        found[f"kernel, {describe(tiled)}"] = partial(tiled_product, config=tiled)
    return found


def tiled_configs(num_rows: int, num_out: int, num_in: int) -> list[TuningConfig]:
    """Those that leave the fewest multiprocessors idle, the largest tiles first."""
    if num_rows % 64:
        return []
    consumers = 2 if num_rows % 128 == 0 else 1
    found = []
    for tile_out, splits in itertools.product((256, 224, 192, 144, 128, 112), (1, 2, 4, 8)):
        stages = min(6, RING_BYTES // (2 * 64 * (64 * consumers + tile_out)))
        config = TuningConfig(tile_out, 64, stages, consumers, num_splits=splits)
        if num_in % (64 * splits) == 0 and num_in // splits >= 448:
            count = Tiles(num_rows, num_out, num_in, config).count
            idle = 1 - num_out * count / -(-num_out // tile_out) / tile_out / (
                NUM_CORES * -(-count // NUM_CORES)
            )
            found.append((round(idle, 2), -tile_out, splits, config))
    best = [config for *_, config in sorted(found, key=lambda one: one[:3])[:3]]
    return [replace(config, num_sharing=sharing) for config in best for sharing in (1, 2)]


def describe(config: TuningConfig) -> str:
    """In short: columns, copies in flight, splits, whether neighbours share."""
    text = f"{config.tile_out} × {config.num_stages}"
    text += f" / {config.num_splits}" if config.num_splits > 1 else ""
    return text + (", x shared" if config.num_sharing > 1 else "")


def gated_ways(num_rows: int, num_out: int, num_in: int) -> dict[str, Make]:
    """The same of gate, up and what is made of both."""

    def as_served(x: Array, matrix: Array) -> Array:
        both = hopper_multiply(x, matrix.reshape(-1, num_in), narrow=True)[0]
        gate, up = jnp.split(both.astype(jnp.float32), 2, axis=-1)
        return (jax.nn.silu(gate) * up).astype(x.dtype)

    found: dict[str, Make] = {"as served": as_served}
    chosen = choose_gated(num_rows, num_out, num_in)
    if chosen is not None:
        configs = {chosen, TuningConfig(128, num_consumers=chosen.num_consumers)}
        configs |= {TuningConfig(96, num_stages=4, num_consumers=chosen.num_consumers)}
        configs |= {replace(config, num_sharing=2) for config in configs}
        for config in sorted(configs, key=lambda config: (-config.tile_out, config.num_sharing)):
            kernel = partial(hopper_gated_product, config=config)
            found[f"kernel, {describe(config)}"] = kernel
    return found


def chain(name: str, make: Make) -> Callable[[Array, Array, Array], Array]:
    """A program of CALLS products, each reading what was made of the one before."""
    num_in = SHAPES[name][1]

    @jax.jit
    def program(x: Array, matrices: Array, scale: Array) -> Array:
        for matrix in matrices:
            result = make(x, matrix)
            if name != "gate_up":
                result = hopper_add_norm(jnp.zeros(result.shape[1:], x.dtype), result, scale, 1e-6)[
                    1
                ]
            x = jnp.tile(result, -(-num_in // result.shape[-1]))[:, :num_in]
        return x

    return program


def median_seconds(program: Callable[..., Array], *operands: Array) -> float:
    """Of one call in a program."""
    program(*operands).block_until_ready()
    times = []
    for _ in range(15):
        begin = time.perf_counter()
        for _ in range(4):
            out = program(*operands)
        out.block_until_ready()
        times.append((time.perf_counter() - begin) / 4 / CALLS)
    return statistics.median(times)


def distance(name: str, make: Make, x: Array, matrix: Array) -> float:
    """From the product of the same factors in float32, relative to its norm."""
    made = np.asarray(make(x, matrix), np.float32)
    if name == "gate_up":
        wanted = gated_product(x.astype(jnp.float32), matrix.astype(jnp.float32))
    else:
        made = made.sum(axis=0)
        wanted = x.astype(jnp.float32) @ matrix.astype(jnp.float32).T
    exact = np.asarray(wanted, np.float32)
    return float(np.linalg.norm(made - exact) / np.linalg.norm(exact))


def main() -> None:
    """Prints a line for each product, number of rows and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 128, 512])
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="NAME")
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {CALLS} calls a program")
    for name in options.only:
        num_out, num_in = SHAPES[name]
        shape = (2, num_out // 2, num_in) if name == "gate_up" else (num_out, num_in)
        matrices = jax.random.normal(jax.random.key(0), (CALLS, *shape), jnp.bfloat16)
        matrices = matrices * num_in**-0.5
        scale = jnp.ones(num_out, jnp.float32)
        for num_rows in options.rows:
            x = jax.random.normal(jax.random.key(1), (num_rows, num_in), jnp.bfloat16)
            flops = 2 * num_rows * num_out * num_in
            floor = max(num_out * num_in * 2 / COPY_BYTES, flops / BF16_FLOPS)
            for way, make in ways(name, num_rows).items():
                away = distance(name, make, x, matrices[0])
                seconds = median_seconds(chain(name, make), x, matrices, scale)
                print(
                    f"{name:8} {num_rows:5} rows  {way:28} {seconds * 1e6:8.1f} µs "
                    f"(floor {floor * 1e6:6.1f}), {flops / seconds / 1e12:4.0f} TFLOP/s"
                    + ("" if away < TOLERANCE else f"  WRONG: {away:.1e} away"),
                    flush=True,
                )


if __name__ == "__main__":
    main()
