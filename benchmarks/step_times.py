"""Time of a step's forward program by its shape: rows that decode, alone or beside prompts.

python -m benchmarks.step_times MODEL [--rows 32 128] [--tokens 0 128 512] [--context 500]

The programs run one after the other, none waited for, as long as makes the clock of a GPU settle:
that is what a server under load has. `benchmarks.step_simulation` reckons with these times.
"""

import argparse
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.speed import print_report
from models.config import PAGE_SIZE
from models.gguf_file import open_gguf
from models.kv_cache import BLOCK_Q
from runtime.buckets import Bucket
from runtime.config import RuntimeConfig, default_cache_dir
from runtime.dispatch_thread import model_runner
from runtime.engine import Engine
from runtime.start import start_engine
from runtime.step_input import StepInput, StepShape, forward_packing

PROMPT = 512  # tokens of each prompt beside the rows, at most
MIN_SLOTS = 4


def step_of(
    bucket: Bucket, shape: StepShape, *, rows: int, context: int, pages: np.ndarray | None = None
) -> StepInput:
    """A step of so many rows at a context, the rest of it prompts.

    Args:
        pages: (slot, index, page), to be entered into the table of pages before.
    """
    packing = forward_packing(bucket, shape)
    vector = np.zeros(packing.size, np.int32)
    views = packing.views(vector)
    views["positions"][:] = -1
    views["positions"][:rows] = context
    views["slots"][:rows] = np.arange(rows)
    if bucket.num_blocks:
        used = -(-rows // BLOCK_Q)
        place = np.arange((bucket.num_blocks - used) * BLOCK_Q)
        slots = np.maximum(shape.num_slots - 1 - place // PROMPT, 0)
        views["positions"][used * BLOCK_Q :] = place % PROMPT
        views["slots"][used * BLOCK_Q :] = slots
        views["blocks"][:] = -1
        views["blocks"][used:] = slots[::BLOCK_Q]
    for name in ("pages", "admitted"):
        views[name][:, 0] = shape.num_slots
    if pages is not None:
        views["pages"][: len(pages)] = pages
    return StepInput(bucket, vector, None, (), False, 0)


def enter_pages(engine: Engine, num_pages: int) -> None:
    """Gives each slot so many pages, in any order."""
    shape, bucket = engine.shape, Bucket(engine.buckets.rows[-1], 0)
    order = np.random.default_rng(0).permutation(shape.num_slots * num_pages) + 1
    slots = np.arange(shape.num_slots)
    for index, pages in enumerate(order.reshape(num_pages, -1)):
        table = np.stack([slots, np.full_like(slots, index), pages], axis=1)
        step = step_of(bucket, shape, rows=0, context=0, pages=table)
        model_runner(engine.runner).forward(step)


def forward_seconds(engine: Engine, bucket: Bucket, rows: int, context: int, calls: int) -> float:
    """Median over five lots of `calls` steps."""
    step = step_of(bucket, engine.shape, rows=rows, context=context)
    runner = model_runner(engine.runner)
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        for _ in range(calls):
            hidden = runner.forward(step)
        jax.block_until_ready(hidden)
        seconds.append((time.perf_counter() - begin) / calls)
    return statistics.median(seconds[1:])


def main() -> None:
    """Prints a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 32, 64, 128])
    parser.add_argument(
        "--tokens", nargs="+", type=int, default=[0], help="of the step; 0: its rows alone"
    )
    parser.add_argument("--context", type=int, default=500, help="of each row")
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compilation-cache-dir", default=default_cache_dir())
    options = parser.parse_args()
    num_slots = max(*options.rows, MIN_SLOTS)
    config = RuntimeConfig(
        str(options.model),
        dtype=options.dtype,
        max_model_len=max(options.context + 1, PROMPT) + PAGE_SIZE,
        max_num_seqs=num_slots,
        max_num_batched_tokens=max(*options.tokens, (-(-num_slots // BLOCK_Q) + 1) * BLOCK_Q),
        enable_prefix_caching=False,
        compilation_cache_dir=options.compilation_cache_dir,
    )
    print(f"{jax.device_count()} × {jax.devices()[0].device_kind}")
    engine = start_engine(config, open_gguf(options.model), [], report=print_report)
    enter_pages(engine, engine.shape.pages_per_request)
    for rows in options.rows:
        for tokens in options.tokens:
            blocks = tokens // BLOCK_Q
            if tokens and blocks <= -(-rows // BLOCK_Q):
                continue  # no room for a prompt
            bucket = engine.buckets.for_step(0 if tokens else rows, blocks)
            seconds = forward_seconds(engine, bucket, rows, options.context, options.calls)
            print(f"{rows:4} rows, {bucket.name:>13}: {1e3 * seconds:8.3f} ms", flush=True)


if __name__ == "__main__":
    main()
