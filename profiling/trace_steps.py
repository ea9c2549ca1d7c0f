"""Runs prefill and decode under the profiler and prints what each scope took."""

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from profiling.ceilings import Ceilings, measure_ceilings, product_dtype
from profiling.events import read_events
from profiling.hlo_text import parse_hlo
from profiling.kernel_resources import resource_table
from profiling.scopes import ALL_SCOPES
from profiling.step_profile import StepProfile, modules_of, summarise
from profiling.table import MISSING, number, text_table
from profiling.work import Work, step_work, total_work
from profiling.workload import Measured, Workload
from runtime.config import RuntimeConfig
from runtime.memory_plan import take_share


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase: timed without the profiler, and traced."""

    name: str
    timed: Measured
    traced: Measured
    profile: StepProfile
    work: dict[str, Work]
    resources: str


def trace_steps(options: argparse.Namespace) -> None:
    """Measures the machine, starts an engine and traces it.

    Raises:
        ValueError: the load does not fit.
    """
    if options.steps < 1:
        raise ValueError(f"steps must be at least 1, got {options.steps}")
    take_share(RuntimeConfig.gpu_memory_utilization)  # before the device is used
    ceilings = measure_ceilings(product_dtype(options.dtype))
    load = Workload(
        options.model,
        batch=options.batch,
        context=options.context,
        steps=2 * options.steps,
        report=print_stage,
        dtype=options.dtype,
        compilation_cache_dir=options.compilation_cache_dir,
    )
    trace_load(load, ceilings, options)


def trace_load(load: Workload, ceilings: Ceilings, options: argparse.Namespace) -> None:
    """Times and traces both phases; prints; writes `summary.json` beside the traces."""
    info = load.engine.info
    print(
        f"{info.model_name} on {info.device}, {info.dtype}, attention: {info.attention}; "
        f"copy {number(ceilings.bytes_per_second, 1e9)} GB/s, "
        f"{ceilings.dtype} product {number(ceilings.flops_per_second, 1e12)} TFLOP/s"
    )
    step_tokens = load.engine.buckets.max_tokens
    prompts = min(load.batch, max(1, options.steps * step_tokens // load.context))
    load.prefill(prompts)  # a graph is recorded at the first run
    # each as it is timed, and as it is traced
    runs: dict[str, tuple[Callable[[], Measured], Callable[[], Measured]]] = {
        "prefill": (lambda: load.prefill(prompts), lambda: load.prefill(prompts)),
        "decode": (
            lambda: load.decode(options.steps),
            lambda: load.decode(options.steps, settle=True),
        ),
    }
    phases = []
    for name, (time_it, run) in runs.items():
        if name == "decode":
            load.start_decode()
        timed = time_it()
        if options.time_only:
            print(f"{name}: {_time_line(timed)}")
            continue
        phases.append(_trace(load, name, timed, run, options.out / name, options.top))
        print_phase(phases[-1], load.config.num_layers, ceilings, options.top)
    load.end_decode()
    if phases:
        path = options.out / "summary.json"
        path.write_text(json.dumps(_summary(load, ceilings, phases), indent=1) + "\n")
        print(f"\n{path}; traces for xprof or Perfetto: {options.out}/*/plugins/profile/*")


def print_stage(stage: str, text: str) -> None:
    """A line of a start, without its progress."""
    if text != "loading":
        print(f"  {stage}: {text}", flush=True)


def _trace(
    load: Workload, name: str, timed: Measured, run: Callable[[], Measured], out: Path, top: int
) -> Phase:
    settings = jax.profiler.ProfileOptions()
    settings.python_tracer_level = 0  # it would slow the host down several times
    with jax.profiler.trace(str(out), profiler_options=settings):
        traced = run()
    events = read_events(out)
    ran = modules_of(events)
    modules = {
        name: parse_hlo(program.as_text())
        for name, program in load.programs().items()
        if name in ran or not ran  # a trace that names none: look for kernels in all
    }
    sizes = load.sizes
    work = total_work([step_work(load.config, step, sizes) for step in traced.steps])
    profile = summarise(events, modules)
    return Phase(name, timed, traced, profile, work, resource_table(events, top))


def print_phase(phase: Phase, num_layers: int, ceilings: Ceilings, top: int) -> None:
    """The lines and tables of a phase."""
    steps = len(phase.traced.steps)
    busy = phase.profile.busy
    buckets = Counter(step.bucket for step in phase.traced.steps)
    contexts = [int(length) for step in phase.traced.steps for length in step.contexts]
    print(f"\n{phase.name}: {', '.join(f'{n} × {name}' for name, n in buckets.items())}")
    print(f"  contexts of {min(contexts)} to {max(contexts)} tokens")
    print(f"  without the profiler: {_time_line(phase.timed)}")
    print(f"  with it:              {_time_line(phase.traced)}")
    kernel_seconds = sum(share.seconds for share in phase.profile.scopes.values())
    print(
        f"  the device worked {number(busy.busy, 1e-3 * steps)} ms a step "
        f"(kernels {number(kernel_seconds, 1e-3 * steps)}), "
        f"{number(100 * busy.busy / busy.window)} % of the time it was traced; it waited "
        f"{number(100 * busy.between / busy.window)} % between programs, "
        f"{number(100 * busy.within / busy.window)} % within"
    )
    timed = phase.timed.step_seconds
    print(
        f"  idle without the profiler, if the kernels take as long there: "
        f"{number(100 * max(0.0, 1 - busy.busy / steps / timed))} %"
    )
    per_layer = phase.profile.kernels_per_layer(num_layers, steps)
    print(f"  kernels of a layer: {number(per_layer)}\n")
    header = ["scope", "µs/step", "%", "kernels", "MB", "GB/s", "% of copy", "GFLOP"]
    header += ["TFLOP/s", "% of product", "roofline µs"]
    print(text_table(header, scope_rows(phase.profile, phase.work, steps, ceilings)))
    print()
    kernels = sorted(phase.profile.kernels.items(), key=lambda item: -item[1].seconds)[:top]
    rows = [
        [
            name[:60],
            scope,
            number(share.seconds, 1e-6 * steps),
            number(share.count / steps),
            number(share.seconds, 1e-6 * share.count),
        ]
        for (scope, name), share in kernels
    ]
    print(text_table(["kernel", "scope", "µs/step", "a step", "µs each"], rows))
    print(f"\n{phase.resources}")


def scope_rows(
    profile: StepProfile, work: Mapping[str, Work], steps: int, ceilings: Ceilings
) -> list[list[str]]:
    """A row for each scope, and their sum; achieved rates are those of the least work."""
    total = sum(share.seconds for share in profile.scopes.values())
    rows = []
    sums = Work()
    for scope in ALL_SCOPES:
        share = profile.scopes.get(scope)
        if share is not None:
            did = work.get(scope, Work())
            sums += did
            rows.append([scope, *_cells(share.seconds, share.count, did, total, steps, ceilings)])
    count = sum(share.count for share in profile.scopes.values())
    return [*rows, ["sum", *_cells(total, count, sums, total, steps, ceilings)]]


def _cells(
    seconds: float, count: int, work: Work, total: float, steps: int, ceilings: Ceilings
) -> list[str]:
    moved = work.num_bytes / seconds if work.num_bytes and seconds else None
    computed = work.flops / seconds if work.flops and seconds else None
    floor = ceilings.seconds(work.num_bytes, work.flops)
    return [
        number(seconds, 1e-6 * steps),
        number(100 * seconds / total),
        number(count / steps),
        number(work.num_bytes, 1e6 * steps) if moved else MISSING,
        number(moved, 1e9),
        number(100 * moved / ceilings.bytes_per_second) if moved else MISSING,
        number(work.flops, 1e9 * steps) if computed else MISSING,
        number(computed, 1e12),
        number(100 * computed / ceilings.flops_per_second) if computed else MISSING,
        number(floor, 1e-6 * steps) if floor else MISSING,
    ]


def _time_line(measured: Measured) -> str:
    seconds = measured.step_seconds
    tokens = sum(len(step.positions) for step in measured.steps)
    rate = tokens / sum(measured.seconds)
    return f"{number(seconds, 1e-3, 4)} ms a step, {rate:,.0f} tokens/s"


def _summary(load: Workload, ceilings: Ceilings, phases: list[Phase]) -> dict[str, Any]:
    return {
        "model": load.engine.info.model_name,
        "device": load.engine.info.device,
        "dtype": load.engine.info.dtype,
        "jax": jax.__version__,
        "ceilings": dataclasses.asdict(ceilings),
        "phases": {
            phase.name: {
                "steps": len(phase.traced.steps),
                "buckets": Counter(step.bucket for step in phase.traced.steps),
                "step_seconds": phase.timed.step_seconds,
                "step_seconds_traced": phase.traced.step_seconds,
                "busy": dataclasses.asdict(phase.profile.busy),
                "scopes": {
                    scope: {
                        **dataclasses.asdict(share),
                        **dataclasses.asdict(phase.work.get(scope, Work())),
                    }
                    for scope, share in phase.profile.scopes.items()
                },
                "kernels": [
                    {"scope": scope, "kernel": name, **dataclasses.asdict(share)}
                    for (scope, name), share in phase.profile.kernels.items()
                ],
            }
            for phase in phases
        },
    }
