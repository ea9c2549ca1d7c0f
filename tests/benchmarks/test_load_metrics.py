"""Figures of a load from what became of its requests."""

import json

import pytest

from benchmarks.compare import compare_files
from benchmarks.load_client import Outcome
from benchmarks.load_metrics import (
    detailed,
    load_metrics,
    parse_goodput,
    parse_metrics,
    parse_percentiles,
)
from benchmarks.load_report import load_page

FIRST = Outcome(start=0.0, prompt_len=10, latency=1.0, ttft=0.2, itl=[0.4, 0.4], output_len=3)
SECOND = Outcome(start=0.5, prompt_len=20, latency=1.5, ttft=0.5, itl=[], output_len=1)
FAILED = Outcome(start=0.1, prompt_len=30, latency=0.1, error="503: full")


def figures(outcomes=(FIRST, SECOND, FAILED), **given):
    options = {"metrics": ["ttft", "tpot", "itl", "e2el"], "percentiles": [50, 99.9], "goodput": {}}
    return load_metrics(outcomes, 2.0, **{**options, **given})


def test_throughput_counts_what_was_answered():
    result = figures()
    assert (result["completed"], result["failed"]) == (2, 1)
    assert (result["total_input_tokens"], result["total_output_tokens"]) == (30, 4)
    assert result["request_throughput"] == 1
    assert (result["output_throughput"], result["total_token_throughput"]) == (2, 17)
    assert result["max_concurrent_requests"] == 2
    assert result["max_output_tokens_per_s"] == 4  # all within a second of the first
    assert result["request_goodput"] is None


def test_times_are_those_of_vllm():
    result = figures()
    assert result["mean_ttft_ms"] == pytest.approx(350)
    assert result["median_tpot_ms"] == pytest.approx(400)  # of the answer with more than one token
    assert result["mean_itl_ms"] == pytest.approx(400)
    assert result["p50_e2el_ms"] == pytest.approx(1250)
    assert "p99.9_ttft_ms" in result and "std_e2el_ms" in result
    assert "mean_e2el_ms" not in figures(metrics=["ttft"])


def test_goodput_counts_requests_within_all_limits():
    assert figures(goodput={"ttft": 300})["request_goodput"] == 0.5
    assert figures(goodput={"ttft": 600, "tpot": 500})["request_goodput"] == 1
    assert figures(goodput={"ttft": 600, "tpot": 300})["request_goodput"] == 0.5


def test_a_load_that_failed_has_figures():
    result = figures([FAILED])
    assert result["completed"] == 0 and result["mean_ttft_ms"] == 0


def test_details_have_an_entry_for_each_request():
    assert detailed([FIRST, FAILED])["errors"] == ["", "503: full"]
    assert all(len(values) == 2 for values in detailed([FIRST, FAILED]).values())


def test_options_are_read():
    assert parse_goodput(["ttft:200", "tpot:20.5"]) == {"ttft": 200, "tpot": 20.5}
    assert parse_metrics("ttft, e2el") == ["ttft", "e2el"]
    assert parse_percentiles("50,99.9") == [50, 99.9]


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_goodput, ["itl:3"]),
        (parse_goodput, ["ttft"]),
        (parse_goodput, ["ttft:-1"]),
        (parse_metrics, "ttft,nothing"),
        (parse_percentiles, "50,x"),
        (parse_percentiles, "101"),
    ],
)
def test_wrong_options_are_refused(parse, text):
    with pytest.raises(ValueError, match="goodput|percentile"):
        parse(text)


@pytest.fixture
def files(tmp_path):
    def write(name, **fields):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(fields))
        return path

    return write


def test_files_are_compared_with_the_first(files):
    one = files("one", output_throughput=100.0, num_prompts=5, label="a", failed=0)
    two = files("two", output_throughput=150.0, num_prompts=9, label="b", failed=0, extra=1)
    lines = compare_files([one, two]).splitlines()
    assert lines[0] == f"A: {one}"
    assert [line.split() for line in lines[5:]] == [
        ["output_throughput", "100.0", "150.0", "1.500"],
        ["failed", "0", "0", "–"],
    ]


def test_percentiles_of_latency_are_compared(files):
    one, two = (files(name, percentiles={"50": value}) for name, value in (("a", 2), ("b", 1)))
    assert compare_files([one, two]).splitlines()[-1].split() == ["p50", "2.000", "1.000", "0.500"]


def test_files_that_cannot_be_compared_are_refused(files, tmp_path):
    one = files("one", failed=0)
    (tmp_path / "list.json").write_text("[]")
    for others, message in (
        ([], "2 to 26"),
        ([tmp_path / "none.json"], "No such file"),
        ([tmp_path / "list.json"], "not a JSON object"),
        ([files("two", other=1)], "no figure in common"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_files([one, *others])


def test_a_page_plots_loads_by_their_concurrency():
    about = {"model_id": "m", "backend": "openai", "date": "d", "request_rate": "inf"}
    results = [{**about, "max_concurrency": n, **figures()} for n in (8, None, 32)]
    text = load_page(results)
    assert text.count("<svg") == 6 and "p99.9_ttft" in text
    assert text.index("<td>2</td>") < text.index("<td>8</td>") < text.index("<td>32</td>")
