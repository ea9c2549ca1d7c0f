"""Sums over devices with the addition and norm that read them: XLA's and ours, by rows.

python -m benchmarks.device_sums --rows 1 8 32 128
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from models.mesh import TP, make_mesh
from models.reduction import AddNorm, Reduction
from pallas_kernels.add_norm import add_norm, hopper_add_norm
from pallas_kernels.hopper import is_hopper
from runtime.exchange import PEER_SPECS, Exchange, Peers, one_shot
from runtime.step_functions import all_reduce_of

WIDTH = 3584
CALLS = 224  # of four steps of a 7B: of fewer the call from the host would be measured
ROUNDS = 20
EPS = 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--devices", type=int, default=jax.device_count())
    options = parser.parse_args()
    hopper = is_hopper(jax.devices()[0])
    print(f"{options.devices} × {jax.devices()[0].device_kind}; µs a sum, with what reads it")
    norm = hopper_add_norm if hopper else add_norm
    ways = ["xla", "ours"] if hopper else ["xla"]
    for rows in options.rows:
        times = {way: microseconds(way, rows, options.devices, norm) for way in ways}
        print(f"{rows:>5}  " + "  ".join(f"{way} {time:6.1f}" for way, time in times.items()))


def microseconds(way: str, rows: int, num_devices: int, norm: AddNorm) -> float:
    """Of one sum: the difference between a program of many and one of two.

    Of one alone, all would write to the same place, before the others had read it.
    """
    many, two = (step_seconds(way, rows, num_devices, norm, calls) for calls in (CALLS, 2))
    return (many - two) / (CALLS - 2) * 1e6


def step_seconds(way: str, rows: int, num_devices: int, norm: AddNorm, calls: int) -> float:
    """Of a step of so many sums in a chain, at the median, steps behind each other."""
    mesh = make_mesh(num_devices)
    exchange = Exchange(mesh, width=WIDTH)
    peers = exchange.peers
    run = make_step(way, mesh, norm, calls)
    random = np.random.default_rng(0)
    x, scale = jnp.asarray(random.normal(size=(rows, WIDTH)), jnp.bfloat16), jnp.ones(WIDTH)
    terms = jnp.asarray(random.normal(size=(num_devices, 1, rows, WIDTH)), jnp.bfloat16)
    arguments = jax.device_put((x, scale), jax.NamedSharding(mesh, P()))
    terms = jax.device_put(terms, jax.NamedSharding(mesh, P(TP)))

    def step() -> Array:
        nonlocal peers
        result, peers = run(*arguments, terms, peers)
        return result

    jax.block_until_ready(step())
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        results = [step() for _ in range(5)]
        jax.block_until_ready(results)
        seconds.append((time.perf_counter() - begin) / 5)
    return statistics.median(seconds)


def make_step(way: str, mesh: Any, norm: AddNorm, calls: int) -> Callable[..., Any]:
    """A step whose sums each wait for the one before."""

    def run(x: Array, scale: Array, terms: Array, peers: Peers) -> tuple[Array, Peers]:
        peers = peers.next()
        reduction = Reduction(all_reduce_of(mesh))
        if way == "ours":
            reduction = one_shot(reduction.all_reduce, peers)
        part = terms[0]
        for i in range(calls):
            x, normed = reduction.norm(jnp.int32(i), norm)(
                x, reduction.before_norm(part), scale, EPS
            )
            part = normed[None]
        return x, peers

    mapped = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(P(), P(), P(TP), PEER_SPECS),
        out_specs=(P(), PEER_SPECS),
        check_vma=False,
    )
    # what all kernels read stays where it is, else the CUDA graph is recorded anew in every step
    return jax.jit(mapped, donate_argnums=(3,))


if __name__ == "__main__":
    main()
