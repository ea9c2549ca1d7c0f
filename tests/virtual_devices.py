"""Code that runs on several devices of a CPU: in a process of its own, for JAX counts them once."""

import json
import os
import subprocess
import sys
from typing import Any

# programs that are run once are compiled sooner than they are fast
QUICK = "--xla_backend_optimization_level=0"


def run_on_devices(count: int, code: str, *arguments: str, flags: str = "", given: str = "") -> Any:
    """What the code prints, as JSON.

    Args:
        arguments: of its command line.
        flags: more for XLA.
        given: its standard input.
    """
    xla_flags = f"--xla_force_host_platform_device_count={count} {flags}"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=given,
        env=os.environ | {"XLA_FLAGS": xla_flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
