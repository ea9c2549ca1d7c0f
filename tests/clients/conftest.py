"""Real servers as processes of their own: the demonstration model, and one that calls tools."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.http_streams import free_port

# litellm would fetch its table of prices while it is imported
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


@contextmanager
def running(*command: str, port: int) -> Iterator[str]:
    """The base URL of a server, once it is ready."""
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until_healthy(url, process)
            yield f"{url}/v1"
        finally:
            process.terminate()
            assert process.wait(40) == 0


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except (urllib.error.HTTPError, urllib.error.URLError):
            time.sleep(0.1)
    raise AssertionError(f"not healthy after {seconds} s")


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
