"""`ggjax bench`: chooses what to measure, or compares what was measured."""

import sys
from collections.abc import Sequence

from benchmarks.bench_flags import make_parser
from benchmarks.compare import compare_files
from models.errors import ModelFileError
from runtime.errors import RequestError

EXIT_USAGE = 2


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; its exit code."""
    options = make_parser().parse_args(arguments)
    try:
        if options.compare:
            print(compare_files(options.compare))
        elif options.kind == "serve":
            from benchmarks.bench_serve import bench_serve

            return bench_serve(options)
        else:
            from benchmarks.offline import bench_latency, bench_throughput

            measure = {"latency": bench_latency, "throughput": bench_throughput}[options.kind]
            measure(options)
    except (ValueError, RequestError, ModelFileError) as error:
        sys.stderr.write(f"ggjax bench: {error}\n")
        return EXIT_USAGE
    return 0
