"""Writes a program's optimised HLO, and lists what changed since another revision or under flags.

python -m profiling.hlo MODEL --bucket decode_32 [--diff OTHER_DIR | --xla-flags="…"]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from server.reader import run_to_exit

FLAGGED = "with-flags"


def main() -> None:
    """Writes and prints; exits 2 on bad arguments."""
    parser = make_parser()
    options = parser.parse_args()
    from profiling.hlo_dump import compare, dump

    try:
        # before this process takes the device's memory
        other = _dump_with_flags(options) if options.xla_flags else None
        name = dump(options)
        if other:
            print(f"\n{options.out} → {other}, XLA_FLAGS={options.xla_flags}")
            print(compare(options.out, other, name))
        elif options.diff:
            print(f"\n{options.diff} → {options.out}")
            print(compare(options.diff, options.out, name))
    except ValueError as error:
        parser.error(str(error))


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="profiling.hlo", description=__doc__.splitlines()[0])
    parser.add_argument("model", help='path of a GGUF file, or "demo"')
    parser.add_argument("--bucket", required=True, help="decode_32, prefill_512, sample_greedy_8 …")
    parser.add_argument("--batch", type=int, help="requests served at once (as of serve)")
    parser.add_argument("--dtype", default="auto", help="form of the weights")
    parser.add_argument("--out", type=Path, default=Path("profiles/hlo"), help="(%(default)s)")
    parser.add_argument("--top", type=int, default=15, help="kernels to list, on a GPU")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--diff", type=Path, metavar="DIR", help="of another revision")
    other.add_argument("--xla-flags", metavar="FLAGS", help="compile a second time, with these")
    return parser


def _dump_with_flags(options: argparse.Namespace) -> Path:
    """XLA reads its flags once, so that is another process."""
    out: Path = options.out / FLAGGED
    command = [sys.executable, "-m", "profiling.hlo", options.model, "--bucket", options.bucket]
    command += ["--dtype", options.dtype, "--out", str(out)]
    command += [] if options.batch is None else ["--batch", str(options.batch)]
    flags = f"{os.environ.get('XLA_FLAGS', '')} {options.xla_flags}".strip()
    done = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, check=False)
    if done.returncode:
        raise ValueError(f"compiling with XLA_FLAGS={flags!r} failed with {done.returncode}")
    return out


if __name__ == "__main__":
    run_to_exit(main)
