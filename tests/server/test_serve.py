"""`serve` as a process: what it logs, signals, ends of the engine."""

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
SERVE = f"""
import asyncio, logging, sys
from pathlib import Path
from runtime.config import RuntimeConfig
from server.listener import bind
from server.serve import serve
from server.served_model import ModelOptions

logging.basicConfig(level=logging.INFO, stream=sys.stderr)
model, seconds, *flags = sys.argv[1:]
code = "import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); "
code += "runpy.run_path({str(FAKE_ENGINE)!r}, run_name='__main__')"
options = ModelOptions(RuntimeConfig(model), engine_command=(sys.executable, "-c", code, *flags))
listener = bind("127.0.0.1", 0)
sys.exit(asyncio.run(serve(options, listener, host="127.0.0.1", drain_seconds=float(seconds))))
"""


class Server:
    """`serve` with the fake engine, in a process of its own."""

    def __init__(self, model: Path, *flags: str, drain: float = 20.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(model), str(drain), *flags],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.url = self.until("Starting ggjax server on ").rpartition(" ")[2]

    def until(self, text: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.strip())
            if text in line:
                return line.strip()
        raise AssertionError("\n".join(self.lines))

    def status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def stream(self, **body: Any) -> Any:
        data = json.dumps({"prompt": "XYZ", "stream": True} | body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + "/v1/completions", data, headers)
        return urllib.request.urlopen(request, timeout=20)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        code = self.process.wait(timeout=seconds)
        assert self.process.stderr is not None
        self.lines += self.process.stderr.read().splitlines()
        return code


@pytest.fixture
def run_server(tiny_gguf: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def run(*flags: str, drain: float = 20.0) -> Server:
        servers.append(Server(tiny_gguf, *flags, drain=drain))
        return servers[-1]

    yield run
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        if server.process.stderr is not None:
            server.process.stderr.close()


def test_the_start_says_what_users_of_vllm_look_for(run_server: Any) -> None:
    server = run_server()
    server.until("server.app:ready")
    log = "\n".join(server.lines)
    assert "Model loading took 0.00 GiB memory and 0.20 seconds" in log
    assert ":KV cache size: 4,096 tokens" in log
    assert "Maximum concurrency for 256 tokens per request: 16.00x" in log
    assert "compiled 3 programs (1 from cache) in 0.1 s" in log
    assert "POST /v1/chat/completions" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish(run_server: Any, number: int) -> None:
    server = run_server("--delay", "0.05")
    server.until("server.app:ready")
    with server.stream(max_tokens=20) as response:
        response.readline()
        server.signal(number)
        server.until("shutting down")
        assert server.status("/health") == 503
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            server.stream()
        assert refused.value.headers["Connection"] == "close"
        refused.value.close()
        text = response.read().decode()
    assert text.endswith("data: [DONE]\n\n")
    assert server.wait(10) == 0


def test_what_does_not_finish_in_time_ends_with_an_error(run_server: Any) -> None:
    server = run_server("--hang-after", "3", drain=0.3)
    server.until("server.app:ready")
    with server.stream() as response:
        response.readline()
        server.signal(signal.SIGTERM)
        text = response.read().decode()
    assert '"code":"shutting_down"' in text
    assert "[DONE]" not in text
    assert server.wait(10) == 0


def test_a_second_signal_ends_at_once(run_server: Any) -> None:
    server = run_server("--hang-after", "3", drain=60)
    server.until("server.app:ready")
    with server.stream() as response:
        response.readline()
        server.signal(signal.SIGINT)
        server.until("shutting down")
        server.signal(signal.SIGINT)
        assert '"code":"shutting_down"' in response.read().decode()
        assert server.wait(10) == 0


def test_a_signal_while_loading_ends_the_server(run_server: Any) -> None:
    server = run_server("--load", "30")
    server.until("weights")
    server.signal(signal.SIGTERM)
    assert server.wait(5) == 0


def test_an_engine_that_dies_ends_the_server(run_server: Any) -> None:
    server = run_server("--die-after", "2")
    server.until("server.app:ready")
    with pytest.raises(urllib.error.HTTPError), server.stream(stream=False) as response:
        response.read()
    assert server.wait(10) == 70
    assert "ended with exit code 9" in "\n".join(server.lines)


def test_an_engine_that_refuses_to_start_is_one_line(run_server: Any) -> None:
    server = run_server("--fatal-at-start", "no room for the KV cache")
    assert server.wait(10) == 2
    log = "\n".join(server.lines)
    assert "no room for the KV cache" in log
    assert "Traceback" not in log


def test_a_killed_server_takes_its_engine_along(run_server: Any, tmp_path: Path) -> None:
    server = run_server("--hang-after", "0", "--events", str(tmp_path / "events"))
    server.until("server.app:ready")
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    pids = [int(pid) for pid in children.read_text().split()]
    assert pids
    server.process.kill()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
