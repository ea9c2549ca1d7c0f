"""Bias, rotation and scale of heads that lie in a Hopper warpgroup's shared memory."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

WARPGROUP = 128  # threads


def heads_at_once(num_heads: int, head_dim: int) -> tuple[int, int]:
    """Heads whose halves fill a warpgroup, and neighbours of one thread."""
    heads = WARPGROUP * 2 // head_dim
    return (2 * heads, 2) if num_heads % (2 * heads) == 0 else (heads, 1)


def takes_heads(*, num_heads: int, head_dim: int) -> bool:
    """Whether that many heads of all kinds can be turned."""
    # half a head must be the 128 bytes to which bulk copies align
    return head_dim == 128 and heads_at_once(num_heads, head_dim)[0] <= num_heads


def spread_angles(x: Array, num_heads: int) -> Array:
    """Cosines or sines [T, H / 2] for as many heads as are turned at once, float32."""
    at_once, _ = heads_at_once(num_heads, 2 * x.shape[1])
    shape = (x.shape[0], at_once, x.shape[1])
    return jnp.broadcast_to(x[:, None], shape).astype(jnp.float32)


def load_angles(cos: Any, sin: Any, num_heads: int) -> tuple[Array, Array]:
    """A token's rows of `spread_angles`, in registers."""
    _, vector = heads_at_once(num_heads, 2 * cos.shape[1])
    layout = plgpu.Layout.WG_STRIDED(cos.shape, vec_size=vector)
    return plgpu.load(cos, layout=layout), plgpu.load(sin, layout=layout)


def load_sum(parts: list[Any], layout: Any, dtype: Any) -> Array:
    """The sum of references, float32 that is rounded as `dtype` rounds."""
    first, *others = (plgpu.load(part, layout=layout).astype(jnp.float32) for part in parts)
    for other in others:
        first = first + other
    return first.astype(dtype).astype(jnp.float32)


def turn_heads(
    in_smem: Any,  # [terms, N, H / 2] twice: the halves of each head
    bias_smem: Any,  # [N, H / 2] twice
    out_smem: Any,  # [N or more, H / 2] twice
    angles: tuple[Array, Array],
    *,
    group: int,
) -> None:
    """Heads as they enter attention: by kv head G queries, a key and a value.

    Queries are scaled; in keys and values NaN and inf become 0.
    """
    cos, sin = angles
    at_once, half = cos.shape
    num_heads = bias_smem[0].shape[0]
    _, vector = heads_at_once(num_heads, 2 * half)
    layout = plgpu.Layout.WG_STRIDED((at_once, half), vec_size=vector)
    dtype = out_smem[0].dtype

    # a loop, since the code of all heads would take seconds to build
    def turn(i: Array, carry: None) -> None:
        # the last ones may be some that were done before
        first_head = jnp.minimum(i * at_once, num_heads - at_once)
        heads = pl.ds(first_head, at_once)

        def read(part: int) -> Array:
            terms = [in_smem[part].at[term, heads] for term in range(in_smem[part].shape[0])]
            return load_sum([*terms, bias_smem[part].at[heads]], layout, dtype)

        head = plgpu.broadcasted_iota(jnp.int32, (at_once, half), 0, layout=layout) + first_head
        kind = lax.rem(head, jnp.int32(group + 2))
        is_query = kind < group
        c = jnp.where(kind > group, 1.0, cos)  # values are not rotated
        s = jnp.where(kind > group, 0.0, sin)
        scale = jnp.where(is_query, (2 * half) ** -0.5, 1.0)
        x, y = read(0), read(1)
        for part, turned in enumerate((x * c - y * s, y * c + x * s)):
            # a value is what it was, so that another's infinity does not make it NaN
            mine = jnp.where(kind > group, (x, y)[part], turned * scale)
            finite = jnp.abs(mine) < jnp.inf
            out_smem[part].at[heads][...] = jnp.where(finite | is_query, mine, 0.0).astype(dtype)

    lax.fori_loop(0, -(-num_heads // at_once), turn, None)
