"""Real servers as processes of their own: the demonstration model, and one that calls tools."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.http_streams import free_port, wait_until_ready

# litellm would fetch its table of prices while it is imported
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


@contextmanager
def running(*command: str, port: int) -> Iterator[str]:
    """The base URL of a server, once it is ready."""
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until_ready(port, process, seconds=240)
            yield f"{url}/v1"
        finally:
            process.terminate()
            assert process.wait(40) == 0


@pytest.fixture(scope="session")
def demo_url() -> Iterator[str]:
    """The demonstration model; it completes Python, whatever is asked."""
    port = free_port()
    # as in tests/model/test_demo.py: what is compiled for one is found by the other
    flags = ["--max-model-len", "1024", "--max-num-seqs", "4", "--max-num-batched-tokens", "128"]
    flags += ["--dtype", "float32"]
    with running("server", "serve", "demo", "--port", str(port), *flags, port=port) as url:
        yield url


@pytest.fixture(scope="session")
def tool_url() -> Iterator[str]:
    """A server whose answers call `weather`, and keep to any form that is asked for."""
    port = free_port()
    with running(
        "benchmarks.http_streams", "--serve", str(port), "--rate", "2000", port=port
    ) as url:
        yield url
