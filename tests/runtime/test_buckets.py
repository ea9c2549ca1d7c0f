"""Every step finds the smallest of a few shapes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.buckets import Bucket, Buckets, SampleMode


def test_shapes_grow_to_the_largest_that_can_occur():
    buckets = Buckets(num_slots=128, max_tokens=2_048, min_rows=1)
    assert buckets.rows == [1, 2, 4, 8, 16, 32, 64, 128]
    assert buckets.blocks == [1, 2, 4, 6, 8, 12, 16, 24, 32]
    assert [bucket.num_tokens for bucket in buckets.all if bucket.num_blocks] == [
        64, 128, 256, 384, 512, 768, 1_024, 1_536, 2_048,
    ]  # fmt: skip


def test_a_limit_that_is_no_power_of_two_is_the_last_shape():
    buckets = Buckets(num_slots=11, max_tokens=320, min_rows=2)
    assert buckets.rows == [2, 4, 8, 11]
    assert buckets.blocks == [1, 2, 4, 5]


def test_names_say_what_a_program_does():
    assert [bucket.name for bucket in Buckets(2, 128, 2).all] == [
        "decode_2",
        "prefill_64",
        "prefill_128",
    ]


@given(
    num_slots=st.integers(1, 200),
    num_blocks=st.integers(1, 40),
    min_rows=st.integers(1, 2),
    data=st.data(),
)
def test_every_step_fits_the_smallest_shape_that_holds_it(num_slots, num_blocks, min_rows, data):
    num_slots = min(max(num_slots, min_rows), num_blocks * 64)
    num_blocks += 1  # one more than the rows take
    buckets = Buckets(num_slots, num_blocks * 64, min_rows)
    rows = data.draw(st.integers(0, num_slots))
    most = num_blocks - -(-rows // 64)
    chunk_blocks = data.draw(st.integers(0 if rows else min(1, most), max(most, 0)))
    bucket = buckets.for_step(rows, chunk_blocks)
    assert bucket in buckets.all

    def holds(one: Bucket) -> bool:
        if not chunk_blocks:
            return one.num_blocks == 0 and one.num_tokens >= rows
        return one.num_blocks >= -(-rows // 64) + chunk_blocks

    assert holds(bucket)
    assert not any(holds(one) for one in buckets.all if one < bucket and one.num_blocks > 0)
    assert bucket.num_blocks * 64 in (0, bucket.num_tokens)
    samples = data.draw(st.integers(1, num_slots))
    for mode in SampleMode:
        chosen = buckets.for_samples(samples, mode)
        assert chosen in buckets.samples
        fitting = [b for b in buckets.samples if b.mode is mode and b.num_rows >= samples]
        assert chosen == min(fitting, key=lambda b: b.num_rows)


def test_only_the_greedy_sampler_has_a_program_for_each_number_of_rows():
    buckets = Buckets(num_slots=128, max_tokens=2_048, min_rows=1)
    rows = {mode: [b.num_rows for b in buckets.samples if b.mode is mode] for mode in SampleMode}
    assert rows.pop(SampleMode.GREEDY) == buckets.rows
    assert rows.pop(SampleMode.FULL) == [1, 4, 16, 64, 128, 192]  # 64 tokens of prompts more
    assert all(sizes == [1, 4, 16, 64, 128] for sizes in rows.values())


@pytest.mark.parametrize(
    ("num_slots", "max_tokens", "min_rows", "message"),
    [
        (8, 100, 1, "max_num_batched_tokens must be a multiple of 64, got 100"),
        (8, 64, 1, r"max_num_batched_tokens \(64\) must be at least 128 for max_num_seqs 8"),
        (65, 128, 1, r"\(128\) must be at least 192 for max_num_seqs 65"),
        (1, 128, 2, "num_slots must be at least 2, got 1"),
    ],
)
def test_limits_that_cannot_be_are_refused(num_slots, max_tokens, min_rows, message):
    with pytest.raises(ValueError, match=message):
        Buckets(num_slots, max_tokens, min_rows)
