"""A start that would run out of memory in the middle of an answer fails at once, and says so."""

import pytest

from runtime.memory_plan import GIB, check_room


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


def test_what_a_step_takes_is_counted(llm):
    info = llm.info
    scores = info.max_num_seqs * info.vocab_size * 4
    assert scores < info.step_bytes < info.weight_bytes  # the cache, as large, is none of it
