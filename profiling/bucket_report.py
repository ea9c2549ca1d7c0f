"""Measures and counts every bucket of the forward program, beside what the machine could do."""

import math
from dataclasses import dataclass

from models.config import PAGE_SIZE
from models.kv_cache import cache_shape
from profiling.ceilings import Ceilings
from profiling.program_facts import ProgramFacts, program_facts
from profiling.scopes import SCOPES
from profiling.start_log import Making, StartLog
from profiling.table import MISSING, number
from profiling.work import Work, step_work
from profiling.workload import Measured, Workload
from runtime.buckets import Bucket

# The roofline is a lower bound of a measured step, up to the noise of the ceilings' measurement.
# What fits in a processor's cache can beat it; else a figure is wrong.
TOLERANCE = 0.10
HEADER = (
    "bucket",
    "compile s",
    "cache",
    "kernels",
    "temp MiB",
    "arguments MiB",
    "in place",
    "GFLOP (XLA)",
    "GFLOP",
    "MB (XLA)",
    "MB",
    "roofline ms",
    "step ms",
    "of roofline %",
)


@dataclass(frozen=True)
class BucketReport:
    """One bucket: its program, the least work of a step of it, and a step's time."""

    name: str
    making: Making
    facts: ProgramFacts
    in_place: bool
    work: dict[str, Work] | None
    measured: Measured | None

    @property
    def least(self) -> Work | None:
        """The step's work in all scopes."""
        return None if self.work is None else sum(self.work.values(), Work())

    def roofline(self, ceilings: Ceilings) -> float | None:
        """Seconds of a step at the ceilings: each scope moves and computes on its own."""
        if self.work is None:
            return None
        return sum(ceilings.seconds(w.num_bytes, w.flops) for w in self.work.values())

    def contradicts(self, ceilings: Ceilings) -> bool:
        """Whether the step was faster than a machine of these ceilings can be."""
        floor = self.roofline(ceilings)
        if floor is None or self.measured is None:
            return False
        return self.measured.step_seconds < floor * (1 - TOLERANCE)


def report_buckets(load: Workload, log: StartLog, *, steps: int) -> list[BucketReport]:
    """Every forward program, from the smallest; each is run `steps` times."""
    runner = load.runner
    pool_shape = pool_of_a_device(load)
    pool_bytes = 2 * math.prod(pool_shape) * runner.kv_dtype.itemsize
    reports = []
    for bucket, program in runner.programs.forward.items():
        facts = program_facts(program, pool_shape=pool_shape)
        measured, work = _measure(load, bucket, steps)
        reports.append(
            BucketReport(
                name=bucket.name,
                making=log.programs[facts.name],
                facts=facts,
                in_place=facts.alias >= pool_bytes and not facts.pool_copies,
                work=work,
                measured=measured,
            )
        )
    return reports


def pool_of_a_device(load: Workload) -> tuple[int, ...]:
    """Shape of the keys, and of the values, that one device holds."""
    layers, pages, kv_heads, *rest = cache_shape(
        load.config, num_pages=load.runner.num_pages, page_size=PAGE_SIZE
    )
    return (layers, pages, kv_heads // load.engine.info.tensor_parallel_size, *rest)


def _measure(
    load: Workload, bucket: Bucket, steps: int
) -> tuple[Measured | None, dict[str, Work] | None]:
    measured = load.run_bucket(bucket, steps)
    own = [] if measured is None else [s for s in measured.steps if s.bucket == bucket.name]
    if measured is None or len(own) < len(measured.steps):
        return None, None  # other buckets ran in between
    sizes = load.sizes
    works = [step_work(load.config, step, sizes) for step in own]
    mean = {
        scope: Work(
            sum(work[scope].num_bytes for work in works) / len(works),
            sum(work[scope].flops for work in works) / len(works),
        )
        for scope in SCOPES
    }
    return measured, mean


def bucket_row(report: BucketReport, ceilings: Ceilings) -> list[str]:
    """The cells under HEADER."""
    floor = report.roofline(ceilings)
    step = None if report.measured is None else report.measured.step_seconds
    least = report.least
    return [
        report.name,
        number(report.making.compile),
        "hit" if report.making.cached else "miss",
        str(report.facts.kernels),
        number(report.facts.temporary, 2**20),
        number(report.facts.arguments, 2**20),
        "yes" if report.in_place else "NO",
        number(report.facts.flops, 1e9),
        number(least.flops if least else None, 1e9),
        number(report.facts.num_bytes, 1e6),
        number(least.num_bytes if least else None, 1e6),
        number(floor, 1e-3),
        number(step, 1e-3),
        number(100 * floor / step) if floor and step else MISSING,
    ]
