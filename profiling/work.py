"""Bytes and operations that a step cannot do without, by scope, from its shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from models.config import ModelConfig
from profiling.scopes import SCOPES
from runtime.forward import leaves_out
from runtime.part import Part
from runtime.step_input import StepInput, StepShape, forward_packing

# a part of a weight's path in the model -> the scope that reads it
WEIGHT_SCOPES = {
    "embedding": "embedding",
    "attn_norm": "norm",
    "mlp_norm": "norm",
    "norm": "norm",
    "qkv": "qkv",
    "bias": "qkv",
    "out": "attention_out",
    "mlp": "mlp",
    "weight": "lm_head",
}


@dataclass(frozen=True)
class Work:
    """Bytes moved and floating-point (or integer) operations, a product's terms counted twice."""

    num_bytes: float = 0.0
    flops: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.num_bytes + other.num_bytes, self.flops + other.flops)


@dataclass(frozen=True)
class Step:
    """The sizes of one step: T tokens with padding, R sampled rows, and each context it reads.

    Attributes:
        positions: [T'] of the tokens that are no padding.
        contexts: tokens of each request's context after the step.
        num_last: tokens for which the last layer is computed behind attention.
    """

    bucket: str
    num_tokens: int
    num_rows: int
    positions: np.ndarray
    contexts: np.ndarray
    num_last: int


@dataclass(frozen=True)
class Sizes:
    """What work depends on besides the step: bytes of a number, and what one device holds.

    Attributes:
        weights: bytes of the weights on one device, by scope.
        activation: bytes of a number between the scopes.
        kv: bytes of a number in the cache.
    """

    weights: Mapping[str, int]
    activation: int
    kv: int
    num_devices: int


def read_step(step: StepInput, shape: StepShape) -> Step:
    """The sizes of a step, from what the host sent for it."""
    views = forward_packing(step.bucket, shape).views(step.forward)
    real = views["positions"] >= 0
    positions, slots = views["positions"][real], views["slots"][real]
    num_tokens, num_last = step.bucket.num_tokens, len(views["hidden_rows"])
    ends = np.zeros(int(slots.max(initial=-1)) + 1, np.int64)
    np.maximum.at(ends, slots, positions + 1)
    return Step(
        bucket=step.bucket.name,
        num_tokens=num_tokens,
        num_rows=step.sampler.num_rows if step.sampler else 0,
        positions=positions.astype(np.int64),
        contexts=ends[ends > 0],
        num_last=num_last if leaves_out(num_tokens, num_last) else num_tokens,
    )


def weight_bytes(parts: Sequence[Part]) -> dict[str, int]:
    """Bytes of the weights on one device, by the scope that reads them.

    Raises:
        ValueError: a weight is of a scope that is not listed.
    """
    total: dict[str, int] = {}
    for part in parts:
        state = jax.tree.unflatten(part.treedef, part.leaves)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
            found = [WEIGHT_SCOPES[name] for name in names if name in WEIGHT_SCOPES]
            if not found:
                raise ValueError(f"no scope is known to read the weight {'.'.join(names)}")
            size = leaf.addressable_shards[0].data.nbytes
            total[found[0]] = total.get(found[0], 0) + size
    return total


def step_work(config: ModelConfig, step: Step, sizes: Sizes) -> dict[str, Work]:
    """The least that each scope does in a step, on one device.

    Bytes: its weights once, its inputs and outputs once, the keys and values of each context once.
    Operations: of products and attention, padding included, since the device computes it.
    """
    layers, d, h, a = config.num_layers, config.width, config.head_dim, sizes.activation
    n, k = config.num_heads // sizes.num_devices, config.num_kv_heads // sizes.num_devices
    ffn, vocab = config.ffn_width // sizes.num_devices, config.vocab_size // sizes.num_devices
    t, rows, real = step.num_tokens, step.num_rows, len(step.positions)
    heads = (n + 2 * k) * h
    # scope -> (bytes besides weights, operations), of one layer
    layer = {
        "norm": (2 * t * d * a, 0),
        "qkv": (t * (d + heads) * a, 2 * t * d * heads),
        "rope": (2 * t * (n + k) * h * a, 0),
        "kv_write": (2 * real * k * h * (a + sizes.kv), 0),
        "attention": (
            2 * step.contexts.sum() * k * h * sizes.kv + 2 * t * n * h * a,
            4 * n * h * (step.positions + 1).sum(),
        ),
    }
    # behind attention: of one token
    behind = {
        "norm": (2 * d * a, 0),
        "attention_out": (n * h * a + d * 4, 2 * n * h * d),
        "mlp": (d * (a + 4), 6 * d * ffn),
        "all_reduce": (4 * d * 4 if sizes.num_devices > 1 else 0, 0),
    }
    once = {
        "embedding": (2 * t * d * a - sizes.weights.get("embedding", 0), 0),  # rows, not the table
        "norm": (2 * rows * d * a, 0),
        "lm_head": (rows * (d * a + vocab * 4), 2 * rows * d * vocab),
        "sampling": (rows * config.vocab_size * 4, 0),
    }
    if not rows:  # nothing is sampled: the head is not run
        once["lm_head"] = (-sizes.weights.get("lm_head", 0), 0)
    work = {scope: Work(sizes.weights.get(scope, 0)) for scope in SCOPES}
    for scope, (num_bytes, flops) in layer.items():
        work[scope] += Work(float(layers * num_bytes), float(layers * flops))
    all_behind = (layers - 1) * t + step.num_last
    for scope, (num_bytes, flops) in behind.items():
        work[scope] += Work(float(all_behind * num_bytes), float(all_behind * flops))
    for scope, (num_bytes, flops) in once.items():
        work[scope] += Work(float(num_bytes), float(flops))
    return work


def total_work(works: Sequence[Mapping[str, Work]]) -> dict[str, Work]:
    """The sum over steps, by scope."""
    return {scope: sum((work[scope] for work in works), Work()) for scope in SCOPES}
