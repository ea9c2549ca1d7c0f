"""Records steps with the profiler and sums the time by scope, beside what the machine could do.

python -m profiling.trace MODEL --batch 32 --context 2048 --steps 20 [--out DIR]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from server.reader import run_to_exit

# an empty list of kinds: every kernel is launched by itself
NO_COMMAND_BUFFERS = "--xla_gpu_enable_command_buffer="


def main() -> None:
    """Prints the tables and leaves trace and summary in the folder; exits 2 on bad arguments."""
    parser = make_parser()
    options = parser.parse_args()
    if options.no_command_buffers:
        # XLA reads its flags once, so the time with graphs is another process's, before this one
        arguments = [argument for argument in sys.argv[1:] if argument != "--no-command-buffers"]
        command = [sys.executable, "-m", "profiling.trace", *arguments, "--time-only"]
        print("With command buffers:", flush=True)
        subprocess.run(command, check=True)
        print("Without command buffers:", flush=True)
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} {NO_COMMAND_BUFFERS}".strip()
    from profiling.trace_steps import trace_steps

    try:
        trace_steps(options)
    except ValueError as error:
        parser.error(str(error))


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="profiling.trace", description=__doc__.splitlines()[0])
    parser.add_argument("model", help='path of a GGUF file, or "demo"')
    parser.add_argument("--batch", type=int, default=8, help="requests that decode together")
    parser.add_argument("--context", type=int, default=256, help="tokens of each prompt")
    parser.add_argument("--steps", type=int, default=20, help="steps of each phase, about")
    parser.add_argument("--out", type=Path, default=Path("profiles/trace"), help="a folder")
    parser.add_argument("--top", type=int, default=15, help="kernels to list")
    parser.add_argument("--dtype", default="auto", help="form of the weights")
    parser.add_argument("--compilation-cache-dir", help="where compiled programs are kept")
    parser.add_argument(
        "--no-command-buffers",
        action="store_true",
        help="time with CUDA graphs first, then trace without them: kernels then say their scope",
    )
    parser.add_argument("--time-only", action="store_true", help="no trace: only time the steps")
    return parser


if __name__ == "__main__":
    run_to_exit(main)
