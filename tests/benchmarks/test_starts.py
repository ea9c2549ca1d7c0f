"""A server's starts are timed, and one that cannot be says so."""

import sys

import pytest

from benchmarks import starts
from benchmarks.make_gguf import write_gguf


def test_the_second_start_finds_what_the_first_has_left(tmp_path, monkeypatch, capsys):
    path = write_gguf(tmp_path / "tiny.gguf", size="tiny")
    flags = ["--max-model-len", "256", "--max-num-seqs", "2", "--max-num-batched-tokens", "128"]
    monkeypatch.setattr(sys, "argv", ["starts", str(path), "--starts", "2", *flags])
    starts.main()
    first, second = capsys.readouterr().out.splitlines()
    assert "(0 from cache)" in first and "Model loading took" in first
    assert "(0 from cache)" not in second and float(second.split()[0]) > 0


def test_a_model_that_cannot_be_served_ends_it(tmp_path):
    with pytest.raises(RuntimeError, match="ended with exit code 2"):
        starts.start(str(tmp_path / "none.gguf"), [])
