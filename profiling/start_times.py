"""Starts an engine and says where the time went."""

import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from models.gguf_file import GGUFFile, open_gguf
from models.tensor_reader import PIECE_BYTES, in_pieces
from profiling.start_log import StartLog
from profiling.workload import Workload, demo_path
from runtime.config import RuntimeConfig
from runtime.memory_plan import take_share

STAGES = (
    "open",
    "read",
    "transfer",
    "dequantise",
    "trace",
    "lower",
    "compile",
    "other",
    "warm-up",
)


@dataclass(frozen=True)
class StartTimes:
    """Seconds of each stage as they passed, and what the compiler's threads did in them.

    Attributes:
        stages: by name, see `measure_start`.
        compile_sum: seconds of compiling in all threads together.
        slowest: the programs that took longest to compile: name, seconds, from the cache.
        num_programs, num_cached: of the step.
    """

    model: str
    device: str
    num_bytes: int
    stages: dict[str, float]
    compile_sum: float
    slowest: list[tuple[str, float, bool]]
    num_programs: int
    num_cached: int


@dataclass(frozen=True)
class Started:
    """A start: its times, and the engine that it left, with what was told of its programs."""

    times: StartTimes
    load: Workload
    log: StartLog


def measure_start(
    model: str, *, batch: int | None, dtype: str, compilation_cache_dir: str | None, **options: Any
) -> Started:
    """Starts once, with the parts of loading measured before it, each by itself.

    open: the header and the tokenizer's arrays. read: every page of the file, from disk or from the
    system's cache. transfer: the raw tensors to the device. dequantise: the rest of loading, its
    programs' compilation included. trace and lower: of the step's programs, until the last one was
    lowered, by their shares in it. compile: what the start waited for beyond that. other: the
    memory plan, the empty cache. warm-up: what the first request took longer than the second.

    Args:
        options: more fields of `runtime.config.RuntimeConfig`.

    Raises:
        ValueError, ModelFileError: as of `Workload`.
    """
    take_share(RuntimeConfig.gpu_memory_utilization)
    clock = _Clock()
    file = open_gguf(demo_path(model))
    opened = clock.lap()
    touch_pages(file)
    read = clock.lap()
    jax.device_put(0).block_until_ready()  # the client, and its memory, are no part of the transfer
    clock.lap()
    _transfer(file)
    transfer = clock.lap()
    reports: list[tuple[str, float]] = []
    with StartLog() as log:
        load = Workload(
            model,
            batch=batch,
            context=8,
            steps=2,
            report=lambda stage, text: reports.append((stage, time.perf_counter())),
            dtype=dtype,
            compilation_cache_dir=compilation_cache_dir,
            **options,
        )
    total = clock.lap()
    loaded = [at for stage, at in reports if stage == "load"]
    loading = loaded[-1] - loaded[0]
    names = {name.removeprefix("jit_") for name in load.programs()} | {"set_extras"}
    tracing, lowering = log.total("trace", names), log.total("lower", names)
    programs = load.runner.programs
    first = sum(load.prefill(1).seconds)
    second = sum(load.prefill(1).seconds)
    # in several processes these are more seconds than pass; what they wait for counts as theirs
    passed = programs.lower_seconds / max(tracing + lowering, 1e-9)
    tracing, lowering = tracing * passed, lowering * passed
    compile_wait = max(0.0, programs.seconds - tracing - lowering)
    stages = {
        "open": opened,
        "read": read,
        "transfer": transfer,
        "dequantise": max(0.0, loading - transfer),
        "trace": tracing,
        "lower": lowering,
        "compile": compile_wait,
        "other": max(0.0, total - loading - programs.seconds),
        "warm-up": max(0.0, first - second),
    }
    by_compile = sorted(names, key=lambda name: -log.programs[name].compile)
    times = StartTimes(
        model=load.engine.info.model_name,
        device=load.engine.info.device,
        num_bytes=file.num_bytes,
        stages=stages,
        compile_sum=log.total("compile", names),
        slowest=[
            (name, log.programs[name].compile, log.programs[name].cached)
            for name in by_compile[:10]
        ],
        num_programs=programs.num_programs,
        num_cached=programs.num_cached,
    )
    return Started(times, load, log)


class _Clock:
    """Seconds since the last look."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds


def touch_pages(file: GGUFFile) -> None:
    """Touches every page of the tensors."""
    for tensor in file.tensors.values():
        int(np.frombuffer(tensor.data, np.uint8)[::4096].sum())


def _transfer(file: GGUFFile) -> None:
    for tensor in file.tensors.values():
        for piece in in_pieces(tensor.data, PIECE_BYTES):
            jax.device_put(piece).block_until_ready()
