"""Compiles one program of the engine, writes its HLO, compares two that were written."""

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax

from profiling.events import read_events
from profiling.hlo_diff import diff_modules
from profiling.hlo_text import parse_hlo
from profiling.kernel_resources import NOT_ON_CPU, resource_table
from profiling.trace_steps import print_stage
from profiling.workload import Workload


def dump(options: argparse.Namespace) -> str:
    """Starts an engine and writes one of its programs; the program's name.

    Raises:
        ValueError: the engine has no such program.
    """
    load = Workload(
        options.model,
        batch=options.batch,
        context=64,
        steps=4,
        report=print_stage,
        dtype=options.dtype,
    )
    return write_program(load, options)


def write_program(load: Workload, options: argparse.Namespace) -> str:
    """Writes `<program>.hlo.txt` into the folder, and prints its operations; the program's name.

    Raises:
        ValueError: the engine has no such program; the message lists those that it has.
    """
    name, program = find_program(load, options.bucket)
    text = program.as_text()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{name}.hlo.txt"
    path.write_text(text)
    module = parse_hlo(text)
    scopes = Counter(module.scope(instruction) for instruction in module.scheduled)
    listed = ", ".join(f"{count} {scope}" for scope, count in scopes.most_common())
    print(f"{path}: {len(module.scheduled)} operations run: {listed}")
    if jax.default_backend() == "cpu":
        print(NOT_ON_CPU)
    else:
        print(_resources(load, options.bucket, options.top))
    return name


def find_program(load: Workload, wanted: str) -> tuple[str, Any]:
    """A program by its bucket's name, or by its own.

    Raises:
        ValueError: there is none.
    """
    programs = {name.removeprefix("jit_"): made for name, made in load.programs().items()}
    for name in (wanted, f"forward_{wanted}"):
        if name in programs:
            return name, programs[name]
    names = ", ".join(name.removeprefix("forward_") for name in programs)
    raise ValueError(f"no program {wanted!r}; there are {names}")


def compare(old: Path, new: Path, name: str) -> str:
    """The differences of a program between two folders.

    Raises:
        ValueError: one of them does not hold it.
    """
    modules = []
    for folder in (old, new):
        path = folder / f"{name}.hlo.txt"
        if not path.is_file():
            raise ValueError(f"{folder} does not hold {path.name}")
        modules.append(parse_hlo(path.read_text()))
    return diff_modules(*modules)


def _resources(load: Workload, wanted: str, top: int) -> str:
    """Of the kernels of two steps of the bucket."""
    bucket = next((b for b in load.engine.buckets.all if b.name == wanted), None)
    if bucket is None:
        return "kernels' resource use: – (only forward programs are run here)"
    with tempfile.TemporaryDirectory() as folder:
        settings = jax.profiler.ProfileOptions()
        settings.python_tracer_level = 0
        with jax.profiler.trace(folder, profiler_options=settings):
            load.run_bucket(bucket, 2)
        # the prompts before are another program's
        own = [e for e in read_events(Path(folder)) if e.module == f"jit_forward_{wanted}"]
        return resource_table(own, top)
