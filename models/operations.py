"""The parts of the forward pass that have several implementations, chosen once for a device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array

from models.config import ModelConfig
from models.kv_cache import Decode, Enter, PagedAttention, enter
from models.projection import Projection
from models.reduction import AddNorm
from models.sites import untouched
from models.weights import PLAIN, Products
from pallas_kernels.add_norm import add_norm, hopper_add_norm
from pallas_kernels.decode_step import decode_step
from pallas_kernels.decode_step import takes_heads as steps_heads
from pallas_kernels.gated_product import hopper_gated
from pallas_kernels.head_rotation import takes_heads as turns_heads
from pallas_kernels.hopper import is_hopper, reach_each_other
from pallas_kernels.hopper_attention import hopper_attention, takes_heads
from pallas_kernels.multiply import hopper_multiply
from pallas_kernels.one_shot_norm import takes as sums_fit
from pallas_kernels.paged_attention import paged_attention
from pallas_kernels.paged_decode import choose_config, padded_rows
from pallas_kernels.rope_write import rope_write


@dataclass(frozen=True)
class Operations:
    """Attention over pages and what comes before it, products, and addition with the norm after it.

    Attributes:
        decode: both for steps of rows alone, where one kernel does it; None: one after the other.
        one_shot: devices tell each other the sums of few rows, and their best scores, by kernels
            that write to each other's memory (`runtime/exchange.py`).
        attention_name: for the log.
    """

    attend: PagedAttention = paged_attention
    enter: Enter = enter
    decode: Decode | None = None
    products: Products = PLAIN
    add_norm: AddNorm = add_norm
    one_shot: bool = False
    attention_name: str = "plain XLA"


def choose_operations(
    devices: Sequence[Any], config: ModelConfig, *, itemsize: int, activation: int
) -> Operations:
    """The fastest for devices of one kind, with keys and values of `itemsize` bytes.

    Args:
        activation: bytes of a number in the residual stream.
    """
    if not is_hopper(devices[0]):
        return Operations()
    group = config.num_heads // config.num_kv_heads
    fits = takes_heads(group=group, head_dim=config.head_dim, itemsize=itemsize)
    return Operations(
        attend=hopper_attention if fits else paged_attention,
        enter=hopper_enter if fits else enter,
        decode=hopper_decode
        if fits and steps_heads(group=group, head_dim=config.head_dim)
        else None,
        products=Products(hopper_multiply, hopper_gated),
        add_norm=hopper_add_norm,
        one_shot=activation == 2
        and sums_fit(width=config.width, num_calls=2 * config.num_layers)
        and reach_each_other(devices),
        attention_name="Mosaic GPU" if fits else "plain XLA",
    )


def hopper_enter(
    projection: Projection,
    k_pages: Array,
    v_pages: Array,
    page_ids: Array,
    offsets: Array,
    *,
    interpret: Any = None,
) -> tuple[Array, Array, Array]:
    """`models.kv_cache.enter` as one kernel, where nobody looks at the heads.

    Queries leave it as the decode kernel takes them, padded.
    """
    num_heads, head_dim = projection.bias.shape[0] * projection.bias.shape[1], k_pages.shape[3]
    if projection.tap is not untouched or not turns_heads(num_heads=num_heads, head_dim=head_dim):
        return enter(projection, k_pages, v_pages, page_ids, offsets)
    with jax.named_scope("rope"):
        written: tuple[Array, Array, Array] = rope_write(
            projection.terms,
            projection.bias,
            projection.rope,
            k_pages,
            v_pages,
            page_ids,
            offsets,
            rows=padded_rows(projection.group),
            interpret=interpret,
        )
    return written


def hopper_decode(
    projection: Projection,
    k_pages: Array,
    v_pages: Array,
    page_tables: Array,
    positions: Array,
    *,
    interpret: Any = None,
) -> tuple[Array, Array, Array]:
    """`models.kv_cache.Decode` as one kernel."""
    rows, width = page_tables.shape
    with jax.named_scope("attention"):
        out, k_pages, v_pages = decode_step(
            projection.terms,
            projection.bias,
            projection.rope,
            k_pages,
            v_pages,
            page_tables,
            positions,
            config=choose_config(rows, k_pages.shape[1], width),
            interpret=interpret,
        )
    return out.astype(projection.dtype), k_pages, v_pages
