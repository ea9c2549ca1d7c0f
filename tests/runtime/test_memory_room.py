"""A start that would run out of memory in the middle of an answer fails at once, and says so."""

import os
import re
from dataclasses import replace

import pytest

from runtime.buckets import Buckets
from runtime.memory_plan import GIB, check_room, forecast, take_share, weight_bytes

BUCKETS = Buckets(128, 2048, 1)


class Device:
    """What a GPU says of its memory."""

    platform = "gpu"

    def memory_stats(self):
        return {"bytes_limit": 100 * GIB, "bytes_in_use": 97 * GIB}


def test_a_step_that_fits_is_fine():
    check_room(Device(), 3 * GIB)


def test_a_step_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"needs 4\.00 GiB .* 3\.00 GiB are left; lower max_num"):
        check_room(Device(), 4 * GIB)


def test_an_allocator_that_does_not_count_is_refused(monkeypatch):
    for stats in (None, {"bytes_in_use": 5}):
        monkeypatch.setattr(Device, "memory_stats", lambda self, stats=stats: stats)
        with pytest.raises(ValueError, match="unset XLA_PYTHON_CLIENT_ALLOCATOR"):
            check_room(Device(), GIB)


def test_a_share_that_was_set_by_its_old_name_stays(monkeypatch):
    old, new = "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"
    monkeypatch.setenv(new, "undone afterwards")
    monkeypatch.delenv(new)
    monkeypatch.setenv(old, "0.5")
    take_share(0.9)
    assert new not in os.environ
    monkeypatch.delenv(old)
    take_share(0.9)
    assert os.environ[new] == "0.9"


def test_what_a_step_takes_is_counted(llm):
    info = llm.info
    scores = info.max_num_seqs * info.vocab_size * 4
    assert scores < info.step_bytes < info.weight_bytes  # the cache, as large, is none of it


def test_what_is_expected_before_loading_is_what_the_weights_take(llm):
    config = llm.model.config
    itemsize = {"float32": 4, "bfloat16": 2}[llm.info.dtype]
    assert weight_bytes(config, itemsize=itemsize, num_devices=1) == llm.info.weight_bytes
    halves = weight_bytes(config, itemsize=itemsize, num_devices=2)
    assert llm.info.weight_bytes / 2 < halves < llm.info.weight_bytes


def test_the_expectation_adds_up(llm):
    text = forecast(Device(), llm.model.config, BUCKETS, itemsize=2, num_devices=1)
    limit, weights, step, reserve, left = map(float, re.findall(r"\d+\.\d+", text))
    assert limit == 100 and reserve == 2
    assert weights + step + reserve + left == pytest.approx(limit, abs=0.03)


def test_weights_that_cannot_fit_are_refused_before_they_are_read(llm):
    config = replace(llm.model.config, vocab_size=10**9)
    with pytest.raises(ValueError, match=r"do not fit in the 100\.00 GiB of each device; use more"):
        forecast(Device(), config, BUCKETS, itemsize=2, num_devices=1)
