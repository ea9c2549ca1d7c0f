"""An operator's mistake is refused at once, in words."""

import dataclasses

import pytest

from runtime.config import DTYPES, KV_CACHE_DTYPES, RuntimeConfig


def test_the_model_is_all_that_must_be_said():
    config = RuntimeConfig("model.gguf")
    assert config.block_size == 64
    assert config.enable_prefix_caching


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("dtype", DTYPES),
        ("kv_cache_dtype", KV_CACHE_DTYPES),
        ("gpu_memory_utilization", (0.05, 1.0)),
        ("max_model_len", (2, None)),
        ("max_num_seqs", (1, 1024, None)),
        ("max_num_batched_tokens", (64, None)),
        ("tensor_parallel_size", (1, None)),
        ("seed", (0, 2**63 - 1)),
    ],
)
def test_what_is_allowed(field, values):
    for value in values:
        assert getattr(RuntimeConfig("m", **{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("block_size", 16, "block_size must be 64, got 16: the attention kernels read pages of 64"),
        ("dtype", "fp8", "dtype must be one of auto, float32, bfloat16, int8, got 'fp8'"),
        ("kv_cache_dtype", "int8", "kv_cache_dtype must be one of auto, float32, bfloat16, got 'i"),
        (
            "gpu_memory_utilization",
            0.04,
            r"gpu_memory_utilization must lie in \[0.05, 1\], got 0.04",
        ),
        ("gpu_memory_utilization", 1.5, "got 1.5"),
        ("gpu_memory_utilization", float("nan"), "got nan"),
        ("max_model_len", 1, "max_model_len must be at least 2, got 1"),
        ("max_num_seqs", 0, r"max_num_seqs must lie in \[1, 1024\], got 0"),
        ("max_num_seqs", 1025, "got 1025"),
        ("max_num_batched_tokens", 63, r"at least 64 \(one query block\), got 63"),
        ("tensor_parallel_size", 0, "tensor_parallel_size must be at least 1, got 0"),
        ("seed", -1, "seed must be a non-negative 64-bit number, got -1"),
        ("seed", 2**63, "seed must be a non-negative 64-bit number"),
    ],
)
def test_what_is_not_is_refused_with_the_reason(field, value, message):
    with pytest.raises(ValueError, match=message):
        RuntimeConfig("m", **{field: value})


def test_a_configuration_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RuntimeConfig("m").seed = 3  # type: ignore[misc]
