"""`ggjax bench` in this process."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.bench import main


class Engine:
    """In place of `LLM`, which tests/runtime covers: answers token 7, as often as asked."""

    info = SimpleNamespace(vocab_size=50)

    def __init__(self, model, **options):
        self.options = options

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def tokenize(self, text):
        return [0] * len(text.split())

    def generate(self, prompts, params, **_):
        params = params if isinstance(params, list) else [params] * len(prompts)
        return [
            SimpleNamespace(
                prompt_token_ids=prompt,
                outputs=[SimpleNamespace(token_ids=[7] * own.max_tokens) for _ in range(own.n)],
            )
            for prompt, own in zip(prompts, params, strict=True)
        ]


def test_the_engine_is_measured_in_this_process(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.offline.LLM", Engine)
    out = tmp_path / "out.json"
    common = ["--output-json", str(out), "--input-len", "5", "--output-len", "3"]
    assert main(["latency", *common, "--num-iters", "2", "--batch-size", "2"]) == 0
    latency = json.loads(out.read_text())
    assert len(latency["latencies"]) == 2 and latency["percentiles"].keys() >= {"50", "99"}
    assert main(["throughput", *common, "--num-prompts", "3", "--n", "2"]) == 0
    throughput = json.loads(out.read_text())
    assert throughput["total_output_tokens"] == 18  # 3 prompts, 2 answers of 3 tokens each
    assert throughput["total_num_tokens"] == 18 + 15
    assert "Throughput: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["latency", "--num-iters", "0"],
        ["latency", "--model", "/nowhere.gguf"],
        ["throughput", "--model", "demo", "--max-num-seqs", "0"],
    ],
)
def test_an_engine_that_cannot_be_is_one_line(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("ggjax bench: ")
