"""The command as a process: exit codes, one line for each fault, no JAX."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from server.flags import make_parser, runtime_config, tokens
from server.listener import CannotBind, bind

ROOT = Path(__file__).resolve().parents[2]


def ggjax(*arguments: str, seconds: float = 20) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


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


def test_a_server_for_everyone_warns() -> None:
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
    assert config.compilation_cache_dir == "/caches/ggjax/compiled"
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
