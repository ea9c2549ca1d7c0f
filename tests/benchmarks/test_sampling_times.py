"""Every kind of sampling is timed with parameters that need it."""

import sys

from benchmarks import sampling
from runtime.buckets import SampleMode
from runtime.request import SamplingParams
from runtime.sampling import NUM_CANDIDATES


def test_a_line_for_each_kind(monkeypatch, capsys):
    monkeypatch.setattr(sampling, "CALLS", 1)
    monkeypatch.setattr(sys, "argv", ["sampling", "--rows", "2", "--vocab", "200"])
    sampling.main()
    lines = capsys.readouterr().out.splitlines()[1:]
    labels = [line.split()[:2] for line in lines]
    assert labels == [[mode.label, "2"] for mode in SampleMode]


def test_the_parameters_need_their_kind():
    for mode in (SampleMode.CANDIDATES, SampleMode.UNLIMITED, SampleMode.LIMITED):
        temperature, top_k, top_p, min_p = sampling.PARAMS[mode]
        SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        assert temperature > 0
        assert (0 < top_k <= NUM_CANDIDATES) == (mode is SampleMode.CANDIDATES)
        assert (top_p < 1 or min_p > 0) == (mode is not SampleMode.UNLIMITED)
