"""From the command to 200 on /health: the first start of a server, and those after it.

python -m benchmarks.starts MODEL --starts 3 [flags of `ggjax serve`]
"""

import argparse
import subprocess
import sys
import tempfile
import time

from benchmarks.http_streams import free_port, wait_until_ready

TOLD = ("Model loading took", "compiled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--starts", type=int, default=3, help="the first one compiles")
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.starts):
            cache = ["--compilation-cache-dir", folder]
            seconds, log = start(options.model, [*cache, *flags])
            told = [line.split("INFO ")[-1] for line in log.splitlines()]
            stages = [line for line in told if line.startswith(TOLD)]
            print(f"{seconds:5.1f} s  {'; '.join(stages)}", flush=True)


def start(model: str, flags: list[str]) -> tuple[float, str]:
    """Seconds until the server was healthy, and what it logged until its end.

    Raises:
        RuntimeError: it ended before.
    """
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", model, "--port", str(port), *flags]
    with tempfile.TemporaryFile("w+") as log:
        begin = time.monotonic()
        with subprocess.Popen(command, stderr=log) as process:
            try:
                wait_until_ready(port, process)
                seconds = time.monotonic() - begin
            finally:
                process.terminate()
        log.seek(0)
        return seconds, log.read()


if __name__ == "__main__":
    main()
