"""The products of a layer by number of rows, each way to make them, against the floor.

python -m benchmarks.products [--rows 128 512 …] [--only gate_up …] [--devices 2]

A program holds several calls over matrices of their own, each with an input that needs the result
before, and what reads the result in a step: the addition and norm, or the gate. A GPU's times.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Wrapped
from jaxtyping import Array

from pallas_kernels import few_rows
from pallas_kernels.add_norm import hopper_add_norm
from pallas_kernels.few_rows import MAX_ROWS, few_rows_product
from pallas_kernels.gated_product import (
    activate,
    choose_streamed,
    gated_product,
    hopper_gated,
    hopper_gated_product,
    streamed_gated_product,
)
from pallas_kernels.gated_product import choose_config as choose_gated
from pallas_kernels.multiply import hopper_multiply, narrow_product, split_product, sums
from pallas_kernels.online_softmax import TILE_M
from pallas_kernels.tiled_product import TuningConfig, configs, tiled_product

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
TOLERANCE = 8e-3  # of the norm, a 16-bit result against float32

# make(x [T, in], matrix) -> terms [terms, T, out], or for gate_up [T, out / 2]
type Make = Callable[[Array, Array], Array]


def own_shape(name: str, num_devices: int) -> tuple[int, int]:
    """[out, in] of what each device holds: heads and feed-forward columns are cut."""
    num_out, num_in = SHAPES[name]
    if name in ("out", "down"):
        return num_out, num_in // num_devices
    return num_out // num_devices, num_in


def ways(name: str, num_rows: int, num_out: int, num_in: int) -> dict[str, Make]:
    """Every way to make this product, by name."""
    if name == "gate_up":
        return gated_ways(num_rows, num_out // 2, num_in)
    found: dict[str, Make] = {
        "as served": partial(hopper_multiply, narrow=True),
        "XLA, 16-bit": lambda x, matrix: narrow_product(x, matrix)[None],
    }
    for splits in (2, 4):
        if num_in % (64 * splits) == 0:
            found[f"XLA, {splits} terms"] = partial(split_product, splits=splits)
    if num_rows == 1:
        found["XLA, sums"] = sums
    if num_rows <= MAX_ROWS and num_out % TILE_M == 0:
        for tile_k, splits in itertools.product((256, 128), (1, 2, 4, 8)):
            if num_in % (splits * tile_k) == 0:
                config = few_rows.TuningConfig(tile_k, 1024 // tile_k, splits)
                way = f"few rows, {tile_k} / {splits}"
                found[way] = partial(few_rows_product, config=config)
    for tiles in itertools.islice(configs(num_rows, num_out, num_in), 4):
        found[f"kernel, {describe(tiles)}"] = partial(tiled_product, config=tiles)
    return found


def describe(config: TuningConfig) -> str:
    """In short: columns, copies in flight, splits."""
    text = f"{config.tile_out} × {config.num_stages}"
    return text + (f" / {config.num_splits}" if config.num_splits > 1 else "")


def xla_gated(x: Array, matrix: Array) -> Array:
    """What XLA makes of it, with 16-bit results of the product."""
    both = narrow_product(x, matrix.reshape(-1, x.shape[1]))
    return activate(both[None], x.dtype)


def gated_ways(num_rows: int, num_out: int, num_in: int) -> dict[str, Make]:
    """The same of gate, up and what is made of both."""
    found: dict[str, Make] = {
        "as served": hopper_gated,
        "XLA": xla_gated,
    }
    if choose_streamed(num_rows, num_out, num_in):
        for tile_k, stages in ((64, 3), (64, 4), (128, 2), (64, 6), (128, 3)):
            config = few_rows.TuningConfig(tile_k, stages, 1)
            found[f"few rows, {tile_k} × {stages}"] = partial(streamed_gated_product, config=config)
        return found
    if choose_gated(num_rows, num_out, num_in):
        for tile_out, stages in ((144, 3), (120, 4), (112, 4), (96, 4), (96, 5), (72, 4), (72, 6)):
            tiles = TuningConfig(tile_out, num_stages=stages)
            found[f"kernel, {describe(tiles)}"] = partial(hopper_gated_product, config=tiles)
    return found


def chain(name: str, make: Make, num_in: int) -> Wrapped:
    """A program of CALLS products, each reading what was made of the one before."""
    once = jax.jit(make)  # lowered once for all calls

    @jax.jit
    def program(x: Array, matrices: Array, scale: Array) -> Array:
        for matrix in matrices:
            result = once(x, matrix)
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


def reference(name: str, x: Array, matrix: Array) -> np.ndarray:
    """Of the same factors in float32."""
    wide = x.astype(jnp.float32), matrix.astype(jnp.float32)
    return np.asarray(gated_product(*wide) if name == "gate_up" else wide[0] @ wide[1].T)


def prepare(
    name: str, make: Make, exact: np.ndarray, operands: tuple[Array, ...]
) -> tuple[Callable[..., Array], float]:
    """The compiled program, and the distance of one product from `exact` relative to its norm."""
    x, matrices, _ = operands
    program = chain(name, make, x.shape[1]).lower(*operands).compile()
    made = np.asarray(jax.jit(make)(x, matrices[0]), np.float32)
    if name != "gate_up":
        made = made.sum(axis=0)
    return program, float(np.linalg.norm(made - exact) / np.linalg.norm(exact))


def compare(name: str, num_out: int, operands: tuple[Array, ...]) -> None:
    """Compiles all ways side by side, then times one after the other; a line for each."""
    num_rows, num_in = operands[0].shape
    flops = 2 * num_rows * num_out * num_in
    floor = max(num_out * num_in * 2 / COPY_BYTES, flops / BF16_FLOPS)
    exact = reference(name, operands[0], operands[1][0])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        prepared = {
            way: pool.submit(prepare, name, make, exact, operands)
            for way, make in ways(name, num_rows, num_out, num_in).items()
        }
    for way, future in prepared.items():
        label = f"{name:8} {num_rows:5} rows  {way:28}"
        try:
            program, away = future.result()
        except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
            print(f"{label} cannot be built: {str(error).splitlines()[0]}", flush=True)
            continue
        seconds = median_seconds(program, *operands)
        print(
            f"{label} {seconds * 1e6:8.1f} µs "
            f"(floor {floor * 1e6:6.1f}), {flops / seconds / 1e12:4.0f} TFLOP/s"
            + ("" if away < TOLERANCE else f"  WRONG: {away:.1e} away"),
            flush=True,
        )


def main() -> None:
    """Prints a line for each product, number of rows and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 128, 512])
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="NAME")
    parser.add_argument("--devices", type=int, default=1, help="that share the matrices")
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {CALLS} calls a program")
    for name in options.only:
        num_out, num_in = own_shape(name, options.devices)
        shape = (2, num_out // 2, num_in) if name == "gate_up" else (num_out, num_in)
        matrices = jax.random.normal(jax.random.key(0), (CALLS, *shape), jnp.bfloat16)
        matrices = matrices * num_in**-0.5
        scale = jnp.ones(num_out, jnp.float32)
        for num_rows in options.rows:
            x = jax.random.normal(jax.random.key(1), (num_rows, num_in), jnp.bfloat16)
            compare(name, num_out, (x, matrices, scale))


if __name__ == "__main__":
    main()
