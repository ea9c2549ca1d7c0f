"""The command as a process: exit codes, one line for each fault, signals, no JAX."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.flags import make_parser, runtime_config, tokens
from server.listener import CannotBind, bind

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


def ggjax(*arguments: str, seconds: float = 20) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


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


def test_a_busy_port_is_one_line_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = ggjax("serve", str(tmp_path / "any.gguf"), "--port", str(port))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"ggjax: cannot listen on 127.0.0.1 port {port}: Address already in use"
    ]


def test_addresses_that_cannot_be_bound() -> None:
    for host in ("no.such.host.invalid", "192.0.2.1", "x" * 300):
        with pytest.raises(CannotBind, match="cannot listen on"):
            bind(host, 0)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--block-size", "16"), "ggjax: block_size must be 64"),
        (("--dtype", "fp8"), "ggjax: dtype must be one of"),
        (("--gpu-memory-utilization", "1.5"), "ggjax: gpu_memory_utilization must lie"),
        (("--max-num-seqs", "0"), "ggjax: max_num_seqs must lie"),
        (("--seed", "-1"), "ggjax: seed must be"),
        (("--max-model-len", "8q"), "argument --max-model-len: '8q' is no number of tokens"),
        (("--port", "70000"), "argument --port: '70000' is no port"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_flags_are_one_line(arguments: tuple[str, ...], line: str) -> None:
    done = ggjax("serve", "x.gguf", *arguments)
    assert done.returncode == 2
    assert line in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("model", ["none.gguf", str(Path(__file__))])
def test_a_model_that_cannot_be_served_is_exit_code_2(model: str) -> None:
    for command in (("serve", model, "--port", "0"), ("inspect", model), ("run", model, "hi")):
        done = ggjax(*command)
        assert done.returncode == 2, done
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()


def test_a_server_for_everyone_warns(run_server: Any, tiny_gguf: Path) -> None:
    done = ggjax("serve", "none.gguf", "--host", "0.0.0.0", "--port", "0")
    assert "ANYONE" in done.stderr
    done = ggjax("serve", "none.gguf", "--host", "0.0.0.0", "--port", "0", "--api-key", "secret")
    assert "ANYONE" not in done.stderr
    assert "secret" not in done.stderr


def test_flags_become_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    words = "serve m.gguf --max-model-len 8K --max-num-seqs 128 --max-num-batched-tokens 2048"
    words += " --gpu-memory-utilization 0.95 --kv-cache-dtype bfloat16 --dtype float32 -tp 2"
    words += " --seed 5 --no-enable-prefix-caching --batch-invariant --api-key a --api-key b"
    args = make_parser().parse_args(words.split())
    config = runtime_config(args)
    assert (config.max_model_len, config.max_num_seqs) == (8192, 128)
    assert (config.tensor_parallel_size, config.seed) == (2, 5)
    assert not config.enable_prefix_caching
    assert config.batch_invariant
    assert not runtime_config(make_parser().parse_args(["serve", "m.gguf"])).batch_invariant
    assert config.compilation_cache_dir == "/caches/ggjax/xla"
    assert args.api_key == ["a", "b"]
    assert [tokens(text) for text in ("8192", "8k", "8K", "1M")] == [8192, 8000, 8192, 2**20]


def test_the_http_process_never_imports_jax(tiny_gguf: Path) -> None:
    code = (
        "import sys, asyncio, server.__main__, server.serve, server.terminal, server.inspection; "
        "from server.model_text import load_text; from pathlib import Path; "
        "load_text(Path(sys.argv[1]), None).close(); "
        "print([m for m in sys.modules if m.split('.')[0] in ('jax', 'jaxlib', 'flax')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_gguf)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_help_names_the_flags() -> None:
    done = ggjax("serve", "--help")
    assert "--gpu-memory-utilization" in done.stdout


def test_inspect_shows_the_file(tiny_gguf: Path) -> None:
    environment = os.environ | {"COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, "-m", "server", "inspect", str(tiny_gguf), "--memory", "80"],
        cwd=ROOT, capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    for text in ("qwen2.block_count", "F32", "80 GiB", "bfloat16", "1,024 items"):
        assert text in done.stdout, done.stdout


@pytest.mark.parametrize(
    "arguments", ["inspect MODEL", "bench latency --compare RESULT RESULT", "bench --help"]
)
def test_a_reader_that_leaves_ends_it_quietly(
    arguments: str, tiny_gguf: Path, tmp_path: Path
) -> None:
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"avg_latency": 1.0}))
    words = arguments.replace("MODEL", str(tiny_gguf)).replace("RESULT", str(result)).split()
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as output:
        done = subprocess.run(
            [sys.executable, "-m", "server", *words],
            cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True, timeout=20, check=False,
        )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode in (0, 1)  # argparse takes no notice


def test_another_broken_pipe_is_an_error() -> None:
    code = (
        "import server.__main__ as command; command.command = lambda: (_ for _ in ()).throw"
        "(BrokenPipeError('another')); command.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "BrokenPipeError: another" in done.stderr


async def test_run_answers_in_the_terminal(
    fake_options: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from runtime.request import SamplingParams
    from server.terminal import converse

    params = SamplingParams(max_tokens=100)
    assert await converse(fake_options(), "hello", params) == 0
    assert capsys.readouterr().out == "system\nYou are a helpful assistant.\n"
    assert await converse(fake_options("--fatal-at-start", "no"), "hello", params) == 2
    assert await converse(fake_options("--die-after", 2), "hello", params) == 70
    assert await converse(fake_options(), "hello" * 1000, params) == 2


async def test_run_chats_until_the_input_ends(
    fake_options: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.request import SamplingParams
    from server.terminal import converse

    lines = iter(["hello", "  ", "x" * 5000, "again"])

    def read(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert await converse(fake_options(), None, SamplingParams(max_tokens=100)) == 0
    found = capsys.readouterr()
    assert found.out.count("You are a helpful assistant.") == 2
    assert "the prompt has" in found.err
    asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
