"""How much memory the KV cache gets, and what follows for the longest request."""

import math
import os
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from models.config import PAGE_SIZE, ModelConfig, kv_bytes_per_token
from models.load import expected_shapes
from runtime.buckets import Buckets

GIB = 2**30

# A CPU's memory is shared with everything else on the machine.
CPU_KV_BYTES = GIB

# Graphs, library handles and fragments that no program reports.
DEVICE_SLACK = 0.02


@dataclass(frozen=True)
class MemoryPlan:
    """Pages of the pool (page 0 included) and the longest prompt and answer together, in tokens."""

    num_pages: int
    max_model_len: int
    kv_bytes: int


def plan_memory(
    config: ModelConfig,
    *,
    max_model_len: int | None,
    num_slots: int,
    kv_dtype: jnp.dtype,
    kv_budget: int,
    num_devices: int,
) -> MemoryPlan:
    """Fills the budget with pages, but with no more than all requests at full length need.

    Args:
        max_model_len: as asked for; None for the model's own, or what fits.
        kv_budget: bytes for keys and values on each of `num_devices`.

    Raises:
        ValueError: the length asked for exceeds the model's, or does not fit; the message says what
            would.
    """
    if max_model_len is not None and max_model_len > config.context_length:
        raise ValueError(
            f"max_model_len {max_model_len} exceeds the {config.context_length} tokens "
            f"that {config.name} was made for"
        )
    page_bytes = kv_bytes_per_token(config, kv_dtype.itemsize) * PAGE_SIZE // num_devices
    affordable = max(0, kv_budget // page_bytes - 1)  # page 0 holds nothing
    wanted_len = max_model_len or config.context_length
    full_length = -(-wanted_len // PAGE_SIZE)
    if affordable < full_length and (max_model_len is not None or affordable < 1):
        raise ValueError(
            f"one request of {wanted_len} tokens needs {full_length * page_bytes / GIB:.2f} GiB of "
            f"KV cache on each device, and {max(0, kv_budget) / GIB:.2f} GiB are left after the "
            f"weights and the step; a max_model_len of {affordable * PAGE_SIZE} would fit"
        )
    pages = min(affordable, num_slots * full_length)
    return MemoryPlan(
        num_pages=pages + 1,
        max_model_len=min(wanted_len, pages * PAGE_SIZE),
        kv_bytes=(pages + 1) * page_bytes * num_devices,
    )


def forecast(
    device: Any, config: ModelConfig, buckets: Buckets, *, itemsize: int, num_devices: int
) -> str:
    """What the memory of each device will hold, in words, before anything is loaded.

    Args:
        itemsize: bytes of a weight.

    Raises:
        ValueError: weights and step alone are more than there is.
    """
    weights = weight_bytes(config, itemsize=itemsize, num_devices=num_devices)
    step = step_bytes(config, buckets, num_devices=num_devices)
    parts = f"weights {weights / GIB:.2f} GiB, a step at most {step / GIB:.2f}"
    if device.platform == "cpu":
        room = min(CPU_KV_BYTES, available_host_bytes() // 4)
        return f"{parts}, KV cache up to {room / GIB:.2f}"
    limit, _ = _limit_and_use(device)
    reserve = DEVICE_SLACK * limit
    left = limit - reserve - weights - step
    if left < 0:
        raise ValueError(
            f"{parts}: {(weights + step) / GIB:.2f} GiB do not fit in the {limit / GIB:.2f} GiB of "
            "each device; use more devices, a larger gpu_memory_utilization or a smaller "
            "max_num_batched_tokens"
        )
    return (
        f"of {limit / GIB:.2f} GiB on each device: {parts}, reserve {reserve / GIB:.2f}, "
        f"KV cache up to {left / GIB:.2f}"
    )


def weight_bytes(config: ModelConfig, *, itemsize: int, num_devices: int) -> int:
    """Of the weights on each device, as `models.load` lays them out: one embedding on every one."""
    shapes = {name: math.prod(shape) for name, shape in expected_shapes(config).items()}
    embedding = shapes.pop("token_embd.weight")
    head = shapes.pop("output.weight", embedding)
    matrices = sum(n for name, n in shapes.items() if _is_matrix(name))
    biases = sum(n for name, n in shapes.items() if name.endswith(".bias"))
    scales = sum(n for name, n in shapes.items() if name.endswith("norm.weight"))
    sharded = (head + matrices) * itemsize + 4 * biases
    return embedding * itemsize + sharded // num_devices + 4 * scales


def _is_matrix(name: str) -> bool:
    return name.endswith(".weight") and not name.endswith("norm.weight")


def kv_budget(device: Any, config: ModelConfig, buckets: Buckets, *, num_devices: int) -> int:
    """Bytes on each device that are left for the KV cache, the weights being there already."""
    if device.platform == "cpu":
        return min(CPU_KV_BYTES, available_host_bytes() // 4)
    limit, in_use = _limit_and_use(device)
    step = step_bytes(config, buckets, num_devices=num_devices)
    return int(limit - in_use - step - DEVICE_SLACK * limit)


def check_room(device: Any, needed: int) -> None:
    """That the device has what a step needs, weights and KV cache being there: before it serves.

    Raises:
        ValueError: it has not, with what would help.
    """
    if device.platform == "cpu":
        return
    limit, in_use = _limit_and_use(device)
    left = limit - in_use
    if needed > left:
        raise ValueError(
            f"a step needs {needed / GIB:.2f} GiB besides weights and KV cache, and "
            f"{left / GIB:.2f} GiB are left; lower max_num_batched_tokens or max_model_len"
        )


def take_share(utilization: float) -> None:
    """Has JAX take this share of each device at its first use, unless it is told otherwise."""
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # its old name; JAX refuses both
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", f"{utilization:g}")


def _limit_and_use(device: Any) -> tuple[int, int]:
    """Bytes that may be used on a GPU, the share that `take_share` asked for, and that are.

    Raises:
        ValueError: its allocator does not know.
    """
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        raise ValueError(
            "JAX's allocator does not say how much memory the GPU has, which the KV cache is sized "
            "by; unset XLA_PYTHON_CLIENT_ALLOCATOR and what else chooses another allocator"
        )
    return stats["bytes_limit"], stats["bytes_in_use"]


def step_bytes(config: ModelConfig, buckets: Buckets, *, num_devices: int) -> int:
    """Upper estimate of what the largest programs need besides weights and cache."""
    wide = max(2 * config.ffn_width // num_devices, 4 * config.width)
    tokens = 3 * 4 * buckets.max_tokens * wide
    scores = 6 * 4 * buckets.max_rows * config.vocab_size
    return tokens + scores


def available_host_bytes() -> int:
    """Physical memory that no process uses."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
