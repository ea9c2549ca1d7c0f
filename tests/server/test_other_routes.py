"""Models, version, tokenize, detokenize, metrics and the lines in the log."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from models.errors import ModelFileError
from runtime.messages import Stats
from server import __main__, request_log
from server.flags import make_parser
from server.lifecycle import LIFECYCLE
from server.model_text import load_text
from server.throughput_log import log_throughput, throughput_line


async def test_models_are_listed_under_all_their_names(start_server: Any) -> None:
    client = await start_server(names=("coder", "org/repo:q4"))
    body = await (await client.get("/v1/models")).json()
    assert [entry["id"] for entry in body["data"]] == ["coder", "org/repo:q4"]
    assert body["data"][1]["root"] == "coder"
    assert body["data"][0]["max_model_len"] == 256
    entry = await (await client.get("/v1/models/org/repo:q4")).json()
    assert entry == body["data"][1]
    response = await client.get("/v1/models/other")
    assert response.status == 404
    assert (await response.json())["error"]["code"] == "model_not_found"
    answer = await client.post("/v1/completions", json={"prompt": "x", "model": "org/repo:q4"})
    assert (await answer.json())["model"] == "org/repo:q4"


async def test_the_version_is_told(client: Any) -> None:
    assert (await (await client.get("/version")).json())["version"]


async def test_tokenize_and_back(client: Any) -> None:
    body = {"prompt": "hi<|im_end|>", "return_token_strs": True}
    found = await (await client.post("/tokenize", json=body)).json()
    assert list(found) == ["count", "max_model_len", "tokens", "token_strs"]
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 256
    assert found["token_strs"][-1] == "<|im_end|>"
    back = await client.post("/detokenize", json={"tokens": found["tokens"]})
    assert await back.json() == {"prompt": "hi<|im_end|>", "content": "hi<|im_end|>"}
    plain = await client.post("/tokenize", json={"prompt": "hi<|im_end|>", "parse_special": False})
    assert (await plain.json())["count"] > found["count"]
    assert (await plain.json())["token_strs"] is None


async def test_llama_servers_form_of_tokenize(client: Any) -> None:
    async def ask(**body: Any) -> Any:
        return await (await client.post("/tokenize", json=body)).json()

    plain = await ask(content="hé<|im_end|>")
    pieces = await ask(content="hé<|im_end|>", with_pieces=True)
    assert list(plain) == ["tokens"]
    assert [entry["id"] for entry in pieces["tokens"]] == plain["tokens"]
    assert pieces["tokens"][-1]["piece"] == "<|im_end|>"
    assert b"".join(
        bytes(piece) if isinstance(piece, list) else piece.encode()
        for piece in (entry["piece"] for entry in pieces["tokens"])
    ) == "hé<|im_end|>".encode()  # fmt: skip
    shielded = await ask(content="<|im_end|>", parse_special=False, add_special=True)
    assert len(shielded["tokens"]) > 1


async def test_load_and_props(start_server: Any) -> None:
    client = await start_server("--delay", 0.05)
    assert await (await client.get("/load")).json() == {"server_load": 0}
    async with client.post(
        "/v1/completions", json={"prompt": "XYZ", "max_tokens": 50, "stream": True}
    ) as response:
        await response.content.readline()
        assert await (await client.get("/load")).json() == {"server_load": 1}
        response.close()
    props = await (await client.get("/props")).json()
    assert props["default_generation_settings"]["n_ctx"] == 256
    assert props["total_slots"] == 8
    assert "messages" in props["chat_template"]
    assert props["build_info"].startswith("ggjax ")


async def test_a_long_prompt_is_encoded_too(client: Any) -> None:
    found = await (await client.post("/tokenize", json={"prompt": "Z" * 20_000})).json()
    assert found["count"] == 20_000


@pytest.mark.parametrize(
    ("url", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"content": None}, "content"),
        ("/tokenize", {"content": 5}, "content"),
        ("/tokenize", {"content": "a", "messages": []}, "messages"),
        ("/tokenize", {"content": "a", "with_pieces": 1}, "with_pieces"),
        ("/tokenize", {"prompt": "a", "with_pieces": True}, "with_pieces"),
        ("/detokenize", {"tokens": [5000]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {"tokens": ["x"]}, "tokens.0"),
    ],
)
async def test_bad_bodies(client: Any, url: str, body: dict[str, Any], param: str) -> None:
    response = await client.post(url, json=body)
    assert response.status == 400
    assert (await response.json())["error"]["param"] == param


@pytest.mark.parametrize(
    ("path", "body", "num_output"),
    [
        ("/v1/completions", {"prompt": "CANARY", "max_tokens": 5, "user": "CANARY"}, 5),
        ("/infill", {"input_prefix": "CANARY", "n_predict": 5}, 5),
        ("/v1/embeddings", {"input": "CANARY", "user": "CANARY"}, 0),
    ],
)
async def test_one_line_for_each_request_and_no_text_of_it(
    start_server: Any,
    caplog: pytest.LogCaptureFixture,
    path: str,
    body: dict[str, Any],
    num_output: int,
) -> None:
    caplog.set_level(logging.INFO)
    client = await start_server(api_keys=("CANARY",))
    headers = {"X-Request-Id": "my-id", "Authorization": "Bearer CANARY"}
    assert (await client.post(path, json=body, headers=headers)).status == 200
    await client.post(path, json=body | {"CANARY": 1}, headers=headers)
    lines = [record.getMessage() for record in caplog.records]
    (line,) = [line for line in lines if line.startswith("my-id")]
    assert f"{num_output} output tokens" in line and line.endswith(("length", "stop"))
    assert "CANARY" not in caplog.text
    metrics = await (await client.get("/metrics", headers=headers)).text()
    assert "CANARY" not in metrics


@pytest.mark.parametrize("flag", ["--log-requests", "--disable-log-requests"])
def test_requests_are_logged_where_the_operator_wants_it(
    flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(_: Any, listener: Any, **__: Any) -> int:
        listener.close()
        return int(request_log.logger.isEnabledFor(logging.INFO))

    monkeypatch.setattr("server.serve.serve", serve)
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    args = make_parser().parse_args(["serve", "x.gguf", "--port", "0", flag])
    try:
        assert bool(__main__.serve(args)) is (flag == "--log-requests")
    finally:
        request_log.logger.setLevel(logging.NOTSET)


async def test_a_busy_server_says_how_fast_it_is(
    start_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client = await start_server()
    task = asyncio.create_task(log_throughput(client.app[LIFECYCLE], period=0.02))
    await asyncio.sleep(0.05)
    assert "Avg prompt" not in caplog.text
    await client.post("/v1/completions", json={"prompt": "XYZ"})
    await asyncio.sleep(0.05)
    num_lines = caplog.text.count("Avg prompt throughput")
    assert num_lines
    await asyncio.sleep(0.1)  # nothing is done, and nothing said
    task.cancel()
    assert caplog.text.count("Avg prompt throughput") == num_lines


def test_the_throughput_line() -> None:
    after = Stats(
        num_running=2, num_waiting=1, num_used_pages=5, prompt_tokens=100, generation_tokens=50,
        prefix_queries=100, prefix_hits=25, padding_tokens=50, compilations=3,
    )  # fmt: skip
    assert throughput_line(Stats(), after, 10.0, 10) == (
        "Avg prompt throughput: 10.0 tokens/s, Avg generation throughput: 5.0 tokens/s, "
        "Running: 2 reqs, Waiting: 1 reqs, KV cache usage: 50.0%, Prefix cache hit rate: 25.0%, "
        "Padding: 25.0%, Compilations: 3"
    )


async def test_the_operators_template_replaces_the_models(tiny_gguf: Path, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    text = load_text(tiny_gguf, template)
    assert (await text.render_chat([{"role": "user", "content": "x"}])).text == "[x]"
    text.close()


@pytest.mark.parametrize("source", [None, b"\xff\xfe", b"{% if %}", b"{{ raise_exception('no') }}"])
def test_templates_that_do_not_work(tiny_gguf: Path, tmp_path: Path, source: bytes | None) -> None:
    template = tmp_path / "t.jinja"
    if source is not None:
        template.write_bytes(source)
    with pytest.raises(ModelFileError, match="chat template"):
        load_text(tiny_gguf, template)
