"""How fast the bytes of a model file reach the device, by the way that they are copied.

python -m benchmarks.transfer FILE [--threads 1 2 4 8] [--piece 16]

Each way twice: JAX asks the system for memory that devices read, and who makes it ask for more pays
for it at the first time. loaded: the model, dequantised on the device; the first time with the
programs for it. pages: each page is touched, nothing is copied. pieces: parts of tensors, by so
many threads. pinned: the same by way of memory that the device can read itself. whole: as tensors
are, by so many threads.
"""

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array

from models.config import model_config
from models.gguf_file import GGUFFile, open_gguf
from models.load import load_model
from models.mesh import make_mesh
from models.tensor_reader import PIECE_BYTES, WINDOW, in_pieces
from profiling.start_times import touch_pages
from runtime.start import fastest_faithful_dtype


def put_all(
    parts: Iterable[np.ndarray], put: Callable[[np.ndarray], Array], num_threads: int
) -> None:
    """Puts all parts on the device; few of them are there at once."""
    with ThreadPoolExecutor(num_threads) as pool:
        pending: deque[Any] = deque()
        for part in parts:
            pending.append(pool.submit(put, part))
            if len(pending) > max(WINDOW, 2 * num_threads):
                pending.popleft().result().block_until_ready()
        for future in pending:
            future.result().block_until_ready()


def pieces(tensors: Iterable[np.ndarray], num_bytes: int) -> list[np.ndarray]:
    """The same bytes in parts of about so many."""
    flat = (data.reshape(-1).view(np.uint8) for data in tensors)
    return [part for data in flat for part in in_pieces(data, num_bytes)]


def by_way_of_pinned(device: Any, part: np.ndarray) -> Array:
    """To memory of the host that the device reads by itself, and from there."""
    pinned = jax.device_put(part, SingleDeviceSharding(device, memory_kind="pinned_host"))
    return jax.device_put(pinned, SingleDeviceSharding(device, memory_kind="device"))


def ways(
    file: GGUFFile, threads: list[int], piece: int
) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is measured, by name."""
    tensors = [tensor.data for tensor in file.tensors.values()]
    device = jax.devices()[0]
    yield "loaded", partial(load, file)
    yield "pages", partial(touch_pages, file)
    for count in threads:
        yield f"pieces {count}", partial(put_all, pieces(tensors, piece), jax.device_put, count)
    if device.platform != "cpu":
        for count in threads:
            put = partial(by_way_of_pinned, device)
            yield f"pinned {count}", partial(put_all, pieces(tensors, piece), put, count)
    for count in threads:
        yield f"whole {count}", partial(put_all, tensors, jax.device_put, count)


def load(file: GGUFFile) -> None:
    """The model as it is served."""
    model = load_model(file, model_config(file), make_mesh(1), dtype=fastest_faithful_dtype())
    jax.block_until_ready(jax.tree.leaves((model.decoder, model.head)))


def seconds(run: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> None:
    """Prints a line for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--piece", type=int, default=PIECE_BYTES >> 20, help="MiB")
    options = parser.parse_args()
    file = open_gguf(options.file)
    print(f"{file.num_bytes / 1e9:.2f} GB to {jax.devices()[0].device_kind}")
    reserving = seconds(lambda: jax.device_put(0).block_until_ready())
    print(f"the first array, with which JAX takes the device's memory: {reserving:.2f} s")
    for name, run in ways(file, options.threads, options.piece << 20):
        taken = [seconds(run), seconds(run)]
        rates = [file.num_bytes / second / 1e9 for second in taken]
        times = "".join(f"{a:8.2f} s {b:7.2f} GB/s" for a, b in zip(taken, rates, strict=True))
        print(f"{name:10}{times}", flush=True)


if __name__ == "__main__":
    main()
