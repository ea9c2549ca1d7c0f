"""Streamed tokens a second of the HTTP process: many clients, and an engine that answers at once.

python -m benchmarks.http_streams [--streams 128] [--tokens 400] [--engine demo] [--forms text …]

Three processes: the clients (this one), the server, and a stand-in for the engine, which gives one
token to each request `--rate` times a second, as steps of a device do; or with `--engine demo` the
engine itself with the demonstration model. The figures are tokens a
second of the server's CPU time, and how late its event loop comes back from a sleep, without the
time in which it waited for a core: what else the machine does counts little.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import web

from models import demo
from runtime.config import RuntimeConfig
from server.app import make_app
from server.engine_client import ENGINE_COMMAND
from server.lifecycle import LIFECYCLE
from server.served_model import ModelOptions

LAG_SECONDS = 0.02  # more often, and the watching would show in the figures
NUM_TOKENS = re.compile(rb'"completion_tokens":(\d+)')
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
MESSAGES = [{"role": "user", "content": "hello"}]
# what a stream asks for, by --forms
FORMS: dict[str, Callable[[int], dict[str, object]]] = {
    "text": lambda index: {},
    "logprobs": lambda index: {"logprobs": True, "top_logprobs": 2},
    "tools": lambda index: {"tools": [TOOL]},
    "schema": lambda index: {"response_format": schema_format(index)},
}


def schema_format(index: int) -> dict[str, object]:
    """A schema of its own for each stream, so that each is compiled."""
    properties = {f"field_{index}_{i}": {"type": "string"} for i in range(20)}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "json_schema", "json_schema": {"name": f"s{index}", "schema": schema}}


def serve(port: int, streams: int, rate: float, engine: str) -> None:
    """The server process; writes its lags as JSON to stdout when it ends."""
    stand_in = (sys.executable, "-m", "benchmarks.stand_in_engine", str(rate))
    options = ModelOptions(
        config=RuntimeConfig(model=demo.NAME, max_num_seqs=streams, max_model_len=1024),
        engine_command=stand_in if engine == "stand-in" else ENGINE_COMMAND,
    )
    app = make_app(options)
    lags: list[tuple[float, float]] = []

    async def watch(app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(measure_lag(app, lags))
        yield
        task.cancel()

    app.cleanup_ctx.append(watch)
    web.run_app(
        app, host="127.0.0.1", port=port, print=None, access_log=None, handler_cancellation=True
    )
    print(json.dumps(lags))


async def measure_lag(app: web.Application, lags: list[tuple[float, float]]) -> None:
    """How much later than asked for the loop comes back, while there are requests: in all, and
    without the time in which the kernel ran others (Linux)."""
    with open("/proc/thread-self/schedstat", "rb") as file:

        def seconds_without_core() -> float:
            return int(os.pread(file.fileno(), 100, 0).split()[1]) / 1e9

        while True:
            waited, begin = seconds_without_core(), time.perf_counter()
            await asyncio.sleep(LAG_SECONDS)
            model = app[LIFECYCLE].model
            if model is not None and model.engine.num_requests:
                lag = time.perf_counter() - begin - LAG_SECONDS
                lags.append((lag, max(0.0, lag - (seconds_without_core() - waited))))


async def run_clients(
    port: int, body: Callable[[int], bytes], num_streams: int
) -> list[tuple[int, int]]:
    """Events and tokens of each stream."""
    return await asyncio.gather(*(read_stream(port, body(i)) for i in range(num_streams)))


async def read_stream(port: int, body: bytes) -> tuple[int, int]:
    """Posts one request and counts its events and tokens; no more, to leave the CPU to others."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    status = await reader.readline()
    read = [status]
    while data := await reader.read(2**16):
        read.append(data)
    writer.close()
    text = b"".join(read)
    if b" 200 " not in status or b"data: [DONE]" not in text:
        raise RuntimeError(f"a stream failed: {text[-400:].decode(errors='replace')}")
    return text.count(b"data: ") - 2, int(NUM_TOKENS.findall(text)[-1])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_ready(port: int, server: subprocess.Popen[bytes], seconds: float = 300.0) -> None:
    """Until /health is 200.

    Raises:
        RuntimeError: the server has ended.
        TimeoutError: it took too long.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)
    raise TimeoutError(f"the server is not ready after {seconds:g} s")


def free_port() -> int:
    """A port of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def measure(options: argparse.Namespace, form: str) -> str:
    """A line of figures, from a server of its own."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.http_streams", "--serve", str(port)]
    command += ["--rate", str(options.rate), "--engine", options.engine]
    command += ["--streams", str(options.streams)]

    def body(index: int) -> bytes:
        shared = {"messages": MESSAGES, "stream": True, "max_tokens": options.tokens}
        shared |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
        return json.dumps(shared | FORMS[form](index)).encode()

    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            wait_until_ready(port, process)
            asyncio.run(run_clients(port, body, 4))  # what is done once is not of interest
            before, begin = cpu_seconds(process.pid), time.monotonic()
            counts = asyncio.run(run_clients(port, body, options.streams))
            seconds, cpu = time.monotonic() - begin, cpu_seconds(process.pid) - before
        finally:
            process.terminate()
            lags, _ = process.communicate()
    events, tokens = map(sum, zip(*counts, strict=True))
    own = statistics.quantiles([lag for _, lag in json.loads(lags)], n=100)
    wall = statistics.quantiles([lag for lag, _ in json.loads(lags)], n=100)
    return (
        f"{form:9} {tokens / cpu:7.0f} tokens/s of one core, {tokens / seconds:6.0f} tokens/s, "
        f"{events / tokens:.2f} events a token, lag p50 {1000 * own[49]:.1f} ms, "
        f"p99 {1000 * own[98]:.1f} ms ({1000 * wall[98]:.1f} ms with the wait for a core)"
    )


def main() -> None:
    """Prints a line for each form of request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=400, help="of each stream")
    parser.add_argument("--rate", type=float, default=60.0, help="steps a second")
    parser.add_argument("--engine", choices=("stand-in", "demo"), default="stand-in")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.streams, options.rate, options.engine)
        return
    for form in options.forms:
        print(measure(options, form), flush=True)


if __name__ == "__main__":
    main()
