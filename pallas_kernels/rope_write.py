"""What stands between a layer's first product and its attention, as one kernel on Hopper.

Bias, rotation, the scale of the queries, and the write of keys and values into their pages: XLA
makes three to five kernels of it, 5 µs a layer at one row and 12 µs at 128 (docs/performance.md).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

WARPGROUP = 128  # threads


def heads_at_once(num_heads: int, head_dim: int) -> tuple[int, int]:
    """Heads whose halves fill a warpgroup, and neighbours of one thread."""
    heads = WARPGROUP * 2 // head_dim
    return (2 * heads, 2) if num_heads % (2 * heads) == 0 else (heads, 1)


def takes_heads(*, num_heads: int, head_dim: int) -> bool:
    """Whether the kernel is made for so many heads of all kinds."""
    # half a head must be the 128 bytes to which bulk copies align
    return head_dim == 128 and heads_at_once(num_heads, head_dim)[0] <= num_heads


@partial(jax.jit, static_argnames=("rows", "interpret"))
def rope_write(
    terms: Float[Array, "terms T K G+2 H"],
    bias: Float[Array, "K G+2 H"],
    rope: tuple[Float[Array, "T H/2"], Float[Array, "T H/2"]],
    k_pages: Float[Array, "pages K page H"],
    v_pages: Float[Array, "pages K page H"],
    page_ids: Int[Array, " T"],
    offsets: Int[Array, " T"],
    *,
    rows: int,
    interpret: Any = None,
) -> tuple[
    Float[Array, "T K rows H"], Float[Array, "pages K page H"], Float[Array, "pages K page H"]
]:
    """Rotated, scaled queries, and the pages with the tokens' keys and values in them.

    Args:
        terms: sum up to a kv head's G queries, its key and its value.
        rope: cosine and sine of every token's angles.
        page_ids: -1 for padding, whose keys and values are written nowhere.
        rows: queries of a kv head in the result, of which those past G hold anything.
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.

    Returns:
        queries in the type of the pages, the pages; NaN and inf among keys and values become 0.

    Raises:
        ValueError: heads that the kernel does not take.
    """
    num_terms, num_tokens, num_kv_heads, own_heads, head_dim = terms.shape
    num_heads = num_kv_heads * own_heads
    if not takes_heads(num_heads=num_heads, head_dim=head_dim):
        raise ValueError(f"{num_heads} heads of {head_dim} are not what the kernel takes")
    at_once, vector = heads_at_once(num_heads, head_dim)
    half = head_dim // 2
    cos, sin = (
        jnp.broadcast_to(x[:, None], (num_tokens, at_once, half)).astype(jnp.float32) for x in rope
    )
    dtype = k_pages.dtype
    # written in place, which a kernel does through references alone
    k_ref, v_ref = jax.new_ref(k_pages), jax.new_ref(v_pages)
    kwargs = {} if interpret is None else {"interpret": interpret}
    q = plgpu.kernel(
        partial(_kernel, k_gmem=k_ref, v_gmem=v_ref, group=own_heads - 2, vector=vector),
        out_type=jax.ShapeDtypeStruct((num_tokens, num_kv_heads, rows, head_dim), dtype),
        grid=(num_tokens,),
        grid_names=("token",),
        kernel_name="rope_write",
        scratch_types={
            "in_smem": [plgpu.SMEM((num_terms, num_heads, half), terms.dtype) for _ in range(2)],
            "bias_smem": [plgpu.SMEM((num_heads, half), bias.dtype) for _ in range(2)],
            "out_smem": [plgpu.SMEM((num_heads, half), dtype) for _ in range(2)],
            "barrier": plgpu.Barrier(num_arrivals=4),
        },
        **kwargs,
    )(
        terms.reshape(num_terms, num_tokens, num_heads, head_dim),
        bias.reshape(num_heads, head_dim),
        cos,
        sin,
        page_ids,
        offsets,
    )
    return q, jax.freeze(k_ref), jax.freeze(v_ref)


def _kernel(
    terms_gmem: Any,  # [terms, T, N, H], N heads of all kinds
    bias_gmem: Any,  # [N, H]
    cos_gmem: Any,  # [T, at once, H / 2]
    sin_gmem: Any,  # [T, at once, H / 2]
    pages_gmem: Any,  # [T]
    offsets_gmem: Any,  # [T]
    q_gmem: Any,  # [T, K, rows, H]
    *,
    k_gmem: Any,  # [pages, K, page, H]
    v_gmem: Any,  # [pages, K, page, H]
    in_smem: Any,  # [terms, N, H / 2] twice: the halves of each head
    bias_smem: Any,  # [N, H / 2] twice, as the next
    out_smem: Any,
    barrier: Any,
    group: int,
    vector: int,
) -> None:
    token = lax.axis_index("token")
    _, at_once, half = cos_gmem.shape
    num_heads = bias_gmem.shape[0]
    dtype = q_gmem.dtype
    halves = [pl.ds(0, half), pl.ds(half, half)]
    for i in range(2):
        plgpu.copy_gmem_to_smem(terms_gmem.at[:, token, :, halves[i]], in_smem[i], barrier)
        plgpu.copy_gmem_to_smem(bias_gmem.at[:, halves[i]], bias_smem[i], barrier)
    layout = plgpu.Layout.WG_STRIDED((at_once, half), vec_size=vector)
    cos = plgpu.load(cos_gmem.at[token], layout=layout)
    sin = plgpu.load(sin_gmem.at[token], layout=layout)
    page, offset = pages_gmem[token], offsets_gmem[token]
    plgpu.barrier_wait(barrier)

    # a loop, since the code of all heads would take seconds to build
    def turn(i: Array, carry: None) -> None:
        # the last ones may be some that were done before
        first_head = jnp.minimum(i * at_once, num_heads - at_once)
        heads = pl.ds(first_head, at_once)

        def read(part: int) -> Array:
            terms = [in_smem[part].at[term, heads] for term in range(in_smem[part].shape[0])]
            first, *others = (
                plgpu.load(own, layout=layout).astype(jnp.float32)
                for own in (*terms, bias_smem[part].at[heads])
            )
            for other in others:
                first = first + other
            return first.astype(dtype).astype(jnp.float32)

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
    plgpu.commit_smem()
    for kv_head in range(q_gmem.shape[1]):
        own = kv_head * (group + 2)
        for smem, where in zip(out_smem, halves, strict=True):
            queries = q_gmem.at[token, kv_head, pl.ds(0, group), where]
            plgpu.copy_smem_to_gmem(smem.at[pl.ds(own, group)], queries)

            @pl.when(page >= 0)
            def _(smem: Any = smem, where: Any = where, kv_head: int = kv_head) -> None:
                own = kv_head * (group + 2)
                for gmem, head in ((k_gmem, own + group), (v_gmem, own + group + 1)):
                    plgpu.copy_smem_to_gmem(smem.at[head], gmem.at[page, kv_head, offset, where])

    plgpu.wait_smem_to_gmem(0)
