"""Every bucket's program: compile time, memory, operations, its roofline and a measured step.

python -m profiling.report MODEL [--context 256] [--out report.html]
"""

import argparse
from pathlib import Path

import jax

from profiling.bucket_report import HEADER, TOLERANCE, BucketReport, bucket_row, report_buckets
from profiling.ceilings import Ceilings, measure_ceilings, product_dtype
from profiling.page import line_plot, page, paragraph, stacked_bars, table
from profiling.scopes import SCOPES
from profiling.start_log import StartLog
from profiling.table import number, text_table
from profiling.trace_steps import print_stage
from profiling.workload import Workload
from runtime.config import RuntimeConfig
from runtime.memory_plan import GIB, available_host_bytes, take_share
from server.reader import run_to_exit

NOTES = (
    "GFLOP and MB are the least that a step needs, sampling included; XLA's are the forward "
    "program's alone, a loop's body counted once. The roofline adds up the scopes, each the longer "
    f"of its bytes and its operations at the ceilings. A step that beats it by more than "
    f"{100 * TOLERANCE:.0f} % found its bytes in a cache, or something was counted wrongly."
)


def main() -> None:
    """Prints the table, writes the page; exits 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="profiling.report", description=__doc__.splitlines()[0])
    parser.add_argument("model", help='path of a GGUF file, or "demo"')
    parser.add_argument("--batch", type=int, help="requests served at once (as of serve)")
    parser.add_argument("--context", type=int, default=256, help="of decoding rows (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="of each bucket (%(default)s)")
    parser.add_argument("--dtype", default="auto", help="form of the weights")
    parser.add_argument("--compilation-cache-dir", help="where compiled programs are kept")
    parser.add_argument("--out", type=Path, default=Path("profiles/report.html"))
    options = parser.parse_args()
    try:
        make_report(options)
    except ValueError as error:
        parser.error(str(error))


def make_report(options: argparse.Namespace) -> None:
    """Measures the machine, starts an engine and reports on it.

    Raises:
        ValueError: the load does not fit.
    """
    if options.steps < 1:
        raise ValueError(f"steps must be at least 1, got {options.steps}")
    take_share(RuntimeConfig.gpu_memory_utilization)  # before the device is used
    ceilings = measure_ceilings(product_dtype(options.dtype))
    with StartLog() as log:
        load = Workload(
            options.model,
            batch=options.batch,
            context=options.context,
            steps=options.steps,
            report=print_stage,
            dtype=options.dtype,
            compilation_cache_dir=options.compilation_cache_dir,
        )
    report_load(load, log, ceilings, options)


def report_load(
    load: Workload, log: StartLog, ceilings: Ceilings, options: argparse.Namespace
) -> None:
    """Measures every bucket, prints the table, writes the page."""
    reports = report_buckets(load, log, steps=options.steps)
    rows = [bucket_row(report, ceilings) for report in reports]
    about = _about(load, ceilings)
    print(f"{about}\n\n{text_table(HEADER, rows)}\n\n{NOTES}")
    for report in reports:
        if report.contradicts(ceilings):
            print(f"{report.name}: faster than its roofline: a cache, or a wrong figure")
    pictures = [_roofline(reports, ceilings), _bytes(reports), _memory(load, reports)]
    sections = [paragraph(about), table(HEADER, rows), paragraph(NOTES), *pictures]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(f"Programs of {load.engine.info.model_name}", sections))
    print(options.out)


def _about(load: Workload, ceilings: Ceilings) -> str:
    info = load.engine.info
    return (
        f"{info.model_name} on {info.device}, {info.dtype}, jax {jax.__version__}; measured: copy "
        f"{number(ceilings.bytes_per_second, 1e9)} GB/s, {ceilings.dtype} product "
        f"{number(ceilings.flops_per_second, 1e12)} TFLOP/s; decoding rows of {load.context} "
        "tokens and more"
    )


def _roofline(reports: list[BucketReport], ceilings: Ceilings) -> str:
    points = {}
    intensities = []
    for report in reports:
        least = report.least
        if least is not None and report.measured is not None and least.num_bytes and least.flops:
            intensity = least.flops / least.num_bytes
            intensities.append(intensity)
            points[report.name] = [(intensity, least.flops / report.measured.step_seconds / 1e9)]
    if not intensities:
        return ""
    ridge = ceilings.flops_per_second / ceilings.bytes_per_second
    ends = (min(*intensities, ridge) / 3, ridge, max(*intensities, ridge) * 3)
    roof = [(x, min(x * ceilings.bytes_per_second, ceilings.flops_per_second) / 1e9) for x in ends]
    return line_plot(
        "Roofline: what steps reach, and what the machine allows",
        {"ceiling": roof, **points},
        x_label="operations per byte",
        y_label="GFLOP/s",
        log_x=True,
        log_y=True,
        size=(900, 460),
    )


def _bytes(reports: list[BucketReport]) -> str:
    bars = {
        report.name: {
            scope: report.work[scope].num_bytes / 1e6
            for scope in SCOPES
            if report.work[scope].num_bytes
        }
        for report in reports
        if report.work is not None
    }
    return stacked_bars("Bytes that a step has to move", bars, unit="MB") if bars else ""


def _memory(load: Workload, reports: list[BucketReport]) -> str:
    info = load.engine.info
    temporary = max(report.facts.temporary for report in reports)
    device = jax.devices()[0]
    if device.platform == "cpu":
        free = float(available_host_bytes())
    else:
        stats = device.memory_stats()
        free = float(stats["bytes_limit"] - stats["bytes_in_use"] - temporary)
    parts = {
        "weights": info.weight_bytes / info.tensor_parallel_size / 2**20,
        "KV cache": info.kv_bytes / info.tensor_parallel_size / 2**20,
        "largest temporary": temporary / 2**20,
    }
    title = f"Memory of a device in use; {max(0.0, free) / GIB:.1f} GiB are free"
    return stacked_bars(title, {"bytes": parts}, unit="MiB")


if __name__ == "__main__":
    run_to_exit(main)
