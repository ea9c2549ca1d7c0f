"""Where the time of a start goes: reading, transfer, dequantising, tracing, compiling, warm-up.

python -m profiling.compile MODEL [--compilation-cache-dir DIR] [--autotune]
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from server.reader import run_to_exit

BAR = 40


def main() -> None:
    """Prints the bars, writes the page; exits 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="profiling.compile", description=__doc__.splitlines()[0])
    parser.add_argument("model", help='path of a GGUF file, or "demo"')
    parser.add_argument("--batch", type=int, help="requests served at once (as of serve)")
    parser.add_argument("--dtype", default="auto", help="form of the weights")
    parser.add_argument("--compilation-cache-dir", help="where compiled programs are kept")
    parser.add_argument("--out", type=Path, default=Path("profiles/compile.html"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument(
        "--autotune",
        action="store_true",
        help="start a second time without autotuning: the difference is its time (GPU)",
    )
    options = parser.parse_args()
    if options.autotune and options.compilation_cache_dir:
        parser.error("--autotune compares two compilations: leave --compilation-cache-dir out")
    from profiling.start_page import AUTOTUNE_OFF, autotune_text, start_page, start_text
    from profiling.start_times import measure_start

    # before this process takes the device's memory
    untuned = _compile_seconds(options, AUTOTUNE_OFF) if options.autotune else None
    try:
        times = measure_start(
            options.model,
            batch=options.batch,
            dtype=options.dtype,
            compilation_cache_dir=options.compilation_cache_dir,
        ).times
    except ValueError as error:
        parser.error(str(error))
    autotune = autotune_text(times, untuned)
    print(start_text(times, autotune, width=BAR))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(start_page(times, autotune))
    print(options.out)
    if options.json:
        options.json.write_text(json.dumps(dataclasses.asdict(times)) + "\n")


def _compile_seconds(options: argparse.Namespace, flags: str) -> float:
    """Seconds of compiling in another process, with more flags of XLA."""
    other = options.out.with_suffix(".untuned.json")
    other.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "profiling.compile", options.model, "--dtype", options.dtype]
    command += ["--json", str(other), "--out", str(options.out.with_suffix(".untuned.html"))]
    command += [] if options.batch is None else ["--batch", str(options.batch)]
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, check=True)
    seconds: float = json.loads(other.read_text())["stages"]["compile"]
    return seconds


if __name__ == "__main__":
    run_to_exit(main)
