"""What the scripts print and write, on the tiny model."""

import argparse
import json
import os
import subprocess
import sys
import xml.dom.minidom

import pytest

from profiling import compile as compile_script
from profiling import hlo, report, trace
from profiling.hlo_dump import compare, write_program
from profiling.page import line_plot, page, short, stacked_bars
from profiling.report import report_load
from profiling.start_page import autotune_text, start_page, start_text
from profiling.start_times import STAGES
from profiling.table import number, text_table
from profiling.trace_steps import trace_load


def test_a_trace_sums_both_phases_by_scope(load, ceilings, tmp_path, capsys):
    options = argparse.Namespace(steps=3, out=tmp_path, top=5, time_only=False)
    trace_load(load, ceilings, options)
    summary = json.loads((tmp_path / "summary.json").read_text())
    decode = summary["phases"]["decode"]
    assert decode["steps"] == 3 and decode["buckets"] == {"decode_2": 3}
    layers = load.config.num_layers
    assert decode["scopes"]["attention_out"]["count"] >= 3 * layers
    assert {"qkv", "norm", "kv_write", "attention", "mlp", "lm_head", "sampling"} <= decode[
        "scopes"
    ].keys()
    # the parts are the whole
    assert sum(kernel["seconds"] for kernel in decode["kernels"]) == pytest.approx(
        sum(scope["seconds"] for scope in decode["scopes"].values())
    )
    busy = decode["busy"]
    assert busy["busy"] + busy["between"] + busy["within"] == pytest.approx(busy["window"])
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert "kernels' resource use: –" in capsys.readouterr().out


def test_without_a_trace_the_steps_are_timed(load, ceilings, tmp_path, capsys):
    options = argparse.Namespace(steps=1, out=tmp_path, top=5, time_only=True)
    trace_load(load, ceilings, options)
    assert "decode: " in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_a_report_is_a_table_and_a_page(started, load, ceilings, tmp_path, capsys):
    out = tmp_path / "report.html"
    report_load(load, started.log, ceilings, argparse.Namespace(steps=1, out=out))
    printed = capsys.readouterr().out
    assert all(bucket.name in printed for bucket in load.engine.buckets.all)
    check_page(out.read_text(), pictures=3)


def test_a_program_is_written_and_compared(load, tmp_path, capsys):
    options = argparse.Namespace(bucket="decode_2", out=tmp_path / "a", top=5)
    name = write_program(load, options)
    assert name == "forward_decode_2" and "attention" in capsys.readouterr().out
    options.out = tmp_path / "b"
    write_program(load, options)
    assert compare(tmp_path / "a", tmp_path / "b", name) == "no difference"
    with pytest.raises(ValueError, match="does not hold"):
        compare(tmp_path / "a", tmp_path / "c", name)


def test_a_program_that_is_not_there_is_refused_with_those_that_are(load, tmp_path):
    options = argparse.Namespace(bucket="decode_7", out=tmp_path, top=5)
    with pytest.raises(ValueError, match="there are decode_2, prefill_64"):
        write_program(load, options)


def test_a_start_is_cut_into_its_stages(started):
    times = started.times
    assert tuple(times.stages) == STAGES and times.stages["compile"] > 0
    assert times.num_cached == 0 and len(times.slowest) == min(10, times.num_programs)
    assert not any(cached for _, _, cached in times.slowest)
    autotune = autotune_text(times, None)
    assert autotune.startswith("autotuning: –")
    assert "█" in start_text(times, autotune, width=10)
    check_page(start_page(times, autotune), pictures=1)


def check_page(text, pictures):
    """Well-formed pictures, and nothing from anywhere."""
    drawings = text.split("<svg")[1:]
    assert len(drawings) == pictures
    for drawing in drawings:
        xml.dom.minidom.parseString("<svg" + drawing.split("</svg>")[0] + "</svg>")
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_pages_escape_what_they_show():
    assert "<script>" not in page("<script>", [])


def test_a_plot_places_points_between_its_ticks():
    drawn = line_plot("t", {"a": [(1, 10), (8, 20)]}, x_label="x", y_label="y", log_x=True)
    xml.dom.minidom.parseString(drawn)
    assert ">1<" in drawn and ">10<" in drawn
    single = line_plot("t", {"a": [(4, 0.5)]}, x_label="x", y_label="y", log_x=True, log_y=True)
    xml.dom.minidom.parseString(single)


def test_pictures_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no points"):
        line_plot("t", {"a": [(0, 1)]}, x_label="x", y_label="y", log_x=True)
    with pytest.raises(ValueError, match="nothing to show"):
        stacked_bars("t", {"a": {}}, unit="s")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (1234.5, "1,234"), (12.345, "12.3"), (1e-5, "1.0e-05"), (100, "100")],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_labels_are_short():
    assert [short(x) for x in (0.5, 999, 25_000, 2e6, 3e9)] == ["0.5", "999", "25k", "2M", "3G"]


def test_tables_are_aligned():
    assert text_table(["a", "b"], [["long", "1"]]).splitlines() == ["a     b", "-------", "long  1"]


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (trace, ["demo", "--steps", "0"], "steps must be at least 1"),
        (report, ["demo", "--steps", "0"], "steps must be at least 1"),
        (hlo, ["demo", "--bucket", "decode_2", "--batch", "0"], "batch and context"),
        (compile_script, ["demo", "--autotune", "--compilation-cache-dir", "x"], "leave"),
        (compile_script, ["demo", "--batch", "0"], "batch and context"),
    ],
)
def test_bad_arguments_end_with_a_line(script, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    with pytest.raises(SystemExit) as exit_code:
        script.main()
    assert exit_code.value.code == 2 and message in capsys.readouterr().err


def test_flags_that_do_not_compile_are_told(monkeypatch, tmp_path):
    options = hlo.make_parser().parse_args(
        ["demo", "--bucket", "decode_2", "--xla-flags=--xla_nonsense", "--out", str(tmp_path)]
    )

    def run(command, *, env, check):
        assert env["XLA_FLAGS"].endswith("--xla_nonsense") and "decode_2" in command
        return argparse.Namespace(returncode=1)

    monkeypatch.setattr(hlo.subprocess, "run", run)
    with pytest.raises(ValueError, match="--xla_nonsense"):
        hlo._dump_with_flags(options)


@pytest.mark.parametrize("name", ["report", "trace", "hlo", "compile"])
def test_a_reader_that_leaves_ends_a_script_without_a_word(name):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", f"profiling.{name}", "--help"]
    try:
        done = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writing)
    assert done.stderr == b""
    assert done.returncode in (0, 1)  # argparse takes no notice
