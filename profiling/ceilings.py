"""What the machine can do at most: bandwidth of a copy and rate of a product, measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.multiply import exact_if_wide
from runtime.start import fastest_faithful_dtype


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second read and written by a copy, and operations a second of a square product."""

    bytes_per_second: float
    flops_per_second: float
    dtype: str

    def seconds(self, num_bytes: float, flops: float) -> float:
        """The roofline: the longer of moving the bytes and doing the operations.

        Source: Williams, Waterman and Patterson, Roofline, 2009.
        """
        return max(num_bytes / self.bytes_per_second, flops / self.flops_per_second)


def measure_ceilings(
    dtype: str, *, copy_bytes: int | None = None, side: int | None = None
) -> Ceilings:
    """Measures the first device.

    Args:
        dtype: of the product's factors, "float32" or "bfloat16".
        copy_bytes: size of the array that is copied; None for one that no cache holds.
        side: of the square factors; None for what the kind of device does in milliseconds.
    """
    on_cpu = jax.default_backend() == "cpu"
    copy_bytes = copy_bytes or (2**28 if on_cpu else 2**31)
    side = side or (1024 if on_cpu else 8192)
    # in place: on a CPU new memory would cost page faults, several times the copy
    copy_seconds = _least_seconds(
        jax.jit(lambda x: x + 1, donate_argnums=0), jnp.zeros(copy_bytes // 4, jnp.float32)
    )
    product_seconds = _least_seconds(*square_product(side, dtype))
    return Ceilings(
        bytes_per_second=2 * (copy_bytes // 4 * 4) / copy_seconds,
        flops_per_second=2 * side**3 / product_seconds,
        dtype=dtype,
    )


def square_product(side: int, dtype: str) -> tuple[Callable[[Array], Array], Array]:
    """A multiplication, and what to begin with: of the size that its results have, however often.

    Random, since a GPU multiplies zeros, ones and what is no number at higher clocks.
    """
    start = jax.random.normal(jax.random.key(0), (side, side), dtype)
    factor = start * jnp.asarray(side**-0.5, dtype)

    @jax.jit
    def multiply(x: Array, factor: Array) -> Array:
        precision = exact_if_wide(factor)
        product = jnp.matmul(x, factor, precision=precision, preferred_element_type=jnp.float32)
        return product.astype(dtype)

    return lambda x: multiply(x, factor), start


def product_dtype(dtype: str) -> str:
    """The float type that products of weights of a form (`RuntimeConfig.dtype`) are measured in."""
    chosen = fastest_faithful_dtype() if dtype == "auto" else dtype
    return "float32" if chosen == "int8" else chosen


def _least_seconds(
    program: Callable[[Array], Array], operand: Array, *, rounds: int = 7, calls: int = 4
) -> float:
    """Of one call, each on the result of the one before.

    The least, since a ceiling is what nothing else disturbed.
    """
    operand = program(operand)
    operand.block_until_ready()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(calls):
            operand = program(operand)
        operand.block_until_ready()
        times.append((time.perf_counter() - begin) / calls)
    return min(times)
