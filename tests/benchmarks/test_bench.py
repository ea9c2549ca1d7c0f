"""`ggjax bench` against a server that streams."""

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest
from aiohttp import web

from benchmarks.bench import main
from benchmarks.load_client import Planned
from benchmarks.load_workers import Job, run_load, share_out
from benchmarks.target import Target


class Server:
    """Speaks OpenAI's protocol: every answer is so many words; bodies are kept."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.url = ""
        self.not_ready = 0  # how often it says so
        self.models = [{"id": "m", "meta": {"n_vocab": 7}}]

    async def list(self, request):
        self.not_ready -= 1
        if self.not_ready >= 0:
            return web.Response(status=503)
        return web.json_response({"data": self.models})

    async def tokenize(self, request):
        body = await request.json()
        return web.json_response({"tokens": list(range(len(body["prompt"].split())))})

    async def detokenize(self, request):
        body = await request.json()
        return web.json_response({"prompt": " ".join(map(str, body["tokens"]))})

    async def answer(self, request):
        body = await request.json()
        self.bodies.append(body)
        chat = "messages" in body
        count = body.get("max_completion_tokens") or body["max_tokens"]
        if count == 13:
            return web.json_response({"error": {"message": "unlucky"}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": ping\n\n")
        opening = {"delta": {"role": "assistant", "content": ""}} if chat else {"text": ""}
        events = [{"choices": [opening]}]
        for _ in range(count):
            events.append({"choices": [{"delta": {"content": "w "}} if chat else {"text": "w "}]})
        if count == 11:
            events = [{"error": {"message": "the engine died"}}]
        if count == 9:
            events = []
        events.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": count}})
        data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
        for i in range(0, len(data), 50):  # events torn between packets
            await response.write(data[i : i + 50])
        if count != 12:
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """In a thread, for the client has an event loop of its own."""
    state, started, ended = Server(), threading.Event(), threading.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/v1/models", state.list)
        app.router.add_post("/tokenize", state.tokenize)
        app.router.add_post("/detokenize", state.detokenize)
        app.router.add_post("/v1/completions", state.answer)
        app.router.add_post("/v1/chat/completions", state.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        state.url = f"http://{host}:{port}"
        started.set()
        while not ended.is_set():
            await asyncio.sleep(0.02)
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(20)
    yield state
    ended.set()
    thread.join()


@pytest.fixture
def bench(server, tmp_path):
    """Runs `bench serve` on it; exit code, and result files by name."""
    server.bodies.clear()

    def run(*arguments):
        lengths = ["--random-input-len", "5", "--random-output-len", "4"]
        where = ["--base-url", server.url, "--result-dir", str(tmp_path)]
        code = main(["serve", *where, *lengths, *map(str, arguments)])
        files = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
        return code, files

    return run


def test_a_load_is_measured_and_saved(bench, server, capsys):
    code, files = bench(
        "--num-prompts", 6, "--num-warmups", 2, "--max-concurrency", 3, "--ignore-eos",
        "--temperature", 0, "--save-detailed", "--metadata", "machine=here",
    )  # fmt: skip
    assert code == 0 and len(server.bodies) == 8
    ((name, result),) = files.items()
    assert name.startswith("openai-infqps-concurrency3-m-")
    assert (result["completed"], result["total_output_tokens"]) == (6, 24)
    assert result["total_input_tokens"] == 30 and result["max_concurrent_requests"] <= 3
    assert result["output_lens"] == [4] * 6 and all(len(itl) == 3 for itl in result["itls"])
    assert result["generated_texts"] == ["w w w w "] * 6
    assert result["machine"] == "here" and result["request_rate"] == "inf"
    body = server.bodies[0]
    assert len(body["prompt"]) == 5 and max(body["prompt"]) < 7
    assert body["ignore_eos"] is True and body["temperature"] == 0
    assert body["stream_options"] == {"include_usage": True}
    assert "Serving Benchmark Result" in capsys.readouterr().out


def test_several_loads_make_a_report(bench, tmp_path):
    page = tmp_path / "load.html"
    code, files = bench(
        "--num-prompts", 2, 4, "--max-concurrency", 1, 2, "--save-result", "--report", page,
        "--result-filename", "r.json", "--percentile-metrics", "ttft,tpot,itl,e2el",
    )  # fmt: skip
    assert code == 0 and files.keys() == {"r-concurrency1.json", "r-concurrency2.json"}
    assert files["r-concurrency2.json"]["completed"] == 4
    assert page.read_text().count("<svg") == 6


def test_chats_are_sent_as_text(bench, server):
    code, files = bench(
        "--backend", "openai-chat", "--num-prompts", 2, "--save-result", "--label", "chat",
        "--header", "X-A=b",
    )  # fmt: skip
    assert code == 0
    (message,) = server.bodies[0]["messages"]
    assert len(message["content"].split()) == 5
    ((name, result),) = files.items()
    assert name.startswith("chat-infqps-m-") and result["total_output_tokens"] == 8
    assert "itls" not in result


@pytest.mark.parametrize(
    ("length", "message"),
    [(13, "400: "), (12, "without [DONE]"), (11, "the engine died")],
)
def test_requests_that_fail_are_counted(bench, length, message, capsys):
    code, files = bench("--num-prompts", 2, "--random-output-len", length, "--save-result")
    (result,) = files.values()
    assert code == 1 and (result["completed"], result["failed"]) == (0, 2)
    assert message in capsys.readouterr().err


def test_an_answer_without_text_has_tokens(bench):
    code, files = bench("--num-prompts", 1, "--random-output-len", 9, "--save-result")
    (result,) = files.values()
    assert code == 0 and result["total_output_tokens"] == 9 and result["mean_ttft_ms"] > 0


def test_workers_share_the_load(server):
    server.bodies.clear()
    bodies = [json.dumps({"prompt": [i], "max_tokens": i + 1}).encode() for i in range(5)]
    requests = [Planned(body=body, offset=0.0, prompt_len=1, output_len=1) for body in bodies]
    job = Job(f"{server.url}/v1/completions", {}, requests, max_concurrency=4, keep_text=False)
    outcomes = run_load(job, 2)
    assert [outcome.output_len for outcome in outcomes] == [1, 2, 3, 4, 5]
    assert not any(outcome.error for outcome in outcomes)


def test_each_worker_has_its_part_of_the_concurrency():
    requests = [Planned(b"", 0.0, 1, i) for i in range(7)]
    parts = share_out(Job("", {}, requests, max_concurrency=5, keep_text=False), 3)
    assert [part.max_concurrency for part in parts] == [2, 2, 1]
    assert [[r.output_len for r in part.requests] for part in parts] == [[0, 3, 6], [1, 4], [2, 5]]
    assert len(share_out(Job("", {}, requests, max_concurrency=2, keep_text=False), 3)) == 2
    assert share_out(Job("", {}, requests, None, keep_text=False), 2)[0].max_concurrency is None


def test_a_worker_that_dies_is_told(monkeypatch):
    # what the parent sends is no job: the worker ends with an error
    monkeypatch.setattr("benchmarks.load_workers.share_out", lambda job, workers: [1, 2])
    with pytest.raises(RuntimeError, match="ended early"):
        run_load(Job("", {}, [], None, keep_text=False), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-prompts", 1, 2], "one for each"),
        (["--max-concurrency", 0], "max-concurrency"),
        (["--num-warmups", -1], "num-warmups"),
        (["--metadata", "x"], "KEY=VALUE"),
        (["--header", "=x"], "KEY=VALUE"),
        (["--workers", 0], "workers"),
        (["--goodput", "itl:1"], "goodput"),
        (["--request-rate", 0], "request-rate"),
    ],
)
def test_wrong_options_are_one_line(bench, arguments, message, capsys):
    code, _ = bench("--num-prompts", 1, *arguments)
    assert code == 2 and message in capsys.readouterr().err


def test_a_server_that_is_none_is_refused(server, capsys, monkeypatch):
    assert main(["serve", "--base-url", "http://127.0.0.1:1"]) == 2
    assert "/v1/models" in capsys.readouterr().err
    monkeypatch.setattr(server, "models", [])
    with pytest.raises(ValueError, match="lists no model"):
        Target(server.url, model=None, headers={})


def test_a_server_that_is_not_ready_is_waited_for(server):
    server.not_ready = 2
    assert Target(server.url, model=None, headers={}, wait=30).model == "m"
    server.not_ready = 1
    with pytest.raises(ValueError, match="503"):
        Target(server.url, model=None, headers={})


def test_the_tokenizer_is_the_servers(server):
    target = Target(server.url, model="other", headers={})
    assert (target.model, target.vocab_size) == ("other", 7)
    assert target.tokenize(["a b", "c"]) == [[0, 1], [0]]


def test_files_are_compared(tmp_path, capsys):
    for name, value in (("a", 1.0), ("b", 3.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"avg_latency": value}))
    arguments = ["latency", "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main(arguments) == 0 and "3.000" in capsys.readouterr().out
