"""The parts of the forward pass that have several implementations, chosen once for a device."""

from dataclasses import dataclass
from typing import Any

from models.config import ModelConfig
from models.kv_cache import PagedAttention
from models.qwen2 import AddNorm
from models.weights import Multiply
from pallas_kernels.add_norm import add_norm, hopper_add_norm
from pallas_kernels.hopper import is_hopper
from pallas_kernels.hopper_attention import hopper_attention, takes_heads
from pallas_kernels.multiply import hopper_multiply, multiply
from pallas_kernels.paged_attention import paged_attention


@dataclass(frozen=True)
class Operations:
    """Attention over pages, products, and addition with the norm after it.

    `attention_name` is for the log.
    """

    attend: PagedAttention = paged_attention
    multiply: Multiply = multiply
    add_norm: AddNorm = add_norm
    attention_name: str = "plain XLA"


def choose_operations(device: Any, config: ModelConfig, *, itemsize: int) -> Operations:
    """The fastest for a device, with keys and values of `itemsize` bytes."""
    if not is_hopper(device):
        return Operations()
    group = config.num_heads // config.num_kv_heads
    fits = takes_heads(group=group, head_dim=config.head_dim, itemsize=itemsize)
    return Operations(
        attend=hopper_attention if fits else paged_attention,
        multiply=hopper_multiply,
        add_norm=hopper_add_norm,
        attention_name="Mosaic GPU" if fits else "plain XLA",
    )
