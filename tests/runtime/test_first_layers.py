"""Which steps are made of two programs: long enough to hide the host, short enough to notice."""

from dataclasses import astuple, dataclass, replace

import pytest

from benchmarks.make_gguf import SIZES
from models.config import ModelConfig
from runtime.buckets import Buckets
from runtime.first_layers import first_layers


@dataclass(frozen=True)
class Device:
    compute_capability: str = "9.0"


HOPPER = Device()
SERVED = Buckets(num_slots=128, max_tokens=2048, min_rows=1)


def config_of(size):
    """As of a file of that size."""
    layers, width, heads, kv_heads, ffn, vocab, context, tied = astuple(SIZES[size])
    return ModelConfig(
        architecture="qwen2",
        name=size,
        num_layers=layers,
        width=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=width // heads,
        ffn_width=ffn,
        vocab_size=vocab,
        context_length=context,
        rms_eps=1e-6,
        rope_theta=1e6,
        rope_scaling=None,
        tied_embeddings=tied,
    )


SMALL, LARGE = config_of("0.5b"), config_of("7b")


def test_a_7b_begins_prompts_of_some_hundred_tokens_with_a_few_layers():
    found = {
        bucket.name: n
        for bucket, n in first_layers(LARGE, SERVED, HOPPER, num_devices=1, activation=2).items()
    }
    assert found == {"prefill_384": 7, "prefill_512": 5}


def test_the_more_tokens_the_fewer_layers():
    layers = list(first_layers(LARGE, SERVED, HOPPER, num_devices=1, activation=2).values())
    assert len(layers) > 1 and layers == sorted(layers, reverse=True)


@pytest.mark.parametrize(
    ("config", "buckets", "device", "num_devices", "activation"),
    [
        (SMALL, SERVED, HOPPER, 1, 2),  # too short: the host is the limit anyway
        (LARGE, SERVED, HOPPER, 2, 2),
        (LARGE, SERVED, HOPPER, 1, 4),  # half as fast, at most
        (LARGE, SERVED, Device("10.0"), 1, 2),
        (LARGE, SERVED, object(), 1, 2),  # a CPU
        (LARGE, replace(SERVED, one_shape=True), HOPPER, 1, 2),  # the same sums for every request
    ],
)
def test_others_are_one_program(config, buckets, device, num_devices, activation):
    found = first_layers(config, buckets, device, num_devices=num_devices, activation=activation)
    assert found == {}
