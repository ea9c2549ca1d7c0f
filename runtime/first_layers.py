"""Which steps are there once more as two programs: a device without work begins sooner.

The host takes longer to prepare a program of a whole model than the device takes for some layers:
those are a program of their own, which the device runs while the host prepares the rest. That
shortens a lone prompt by a millisecond, costs the seconds to compile two programs more, and
where the device has work anyway it would be a loss (docs/performance.md).
"""

import math
from typing import Any

from models.config import ModelConfig
from pallas_kernels.hopper import is_hopper
from runtime.buckets import Bucket, Buckets

# measured on an H200, as all here
FLOPS_A_SECOND = 650e12  # of a prompt's products, in 16 bits
PREPARING = 1.8e-3  # seconds: what the host needs for the other layers
LONGEST = 12e-3  # seconds: the more a step takes the less a millisecond is, and starts pay for it
MOST = 1 / 3  # of the layers: with more, the other program would be the short one


def first_layers(
    config: ModelConfig, buckets: Buckets, device: Any, *, num_devices: int, activation: int
) -> dict[Bucket, int]:
    """For each step that is worth it, how many layers its first program has.

    Args:
        activation: bytes of an activation's number.
    """
    if not is_hopper(device) or num_devices > 1 or activation != 2 or buckets.one_shape:
        return {}
    found = {}
    for bucket in buckets.all:
        seconds = 2 * _layer_size(config) * bucket.num_tokens / FLOPS_A_SECOND
        num_layers = math.ceil(PREPARING / seconds)
        if num_layers <= MOST * config.num_layers and seconds * config.num_layers <= LONGEST:
            found[bucket] = num_layers
    return found


def _layer_size(config: ModelConfig) -> int:
    """Weights of a layer."""
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    return config.width * (heads + 3 * config.ffn_width)
