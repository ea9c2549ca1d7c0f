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
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demonstration model; it completes Python, whatever is asked."""
    port = free_port()
    flags = ["--max-model-len", "256", "--max-num-seqs", "2", "--max-num-batched-tokens", "128"]
    flags += ["--compilation-cache-dir", str(tmp_path_factory.mktemp("xla"))]
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
