"""Decode attention on Hopper that begins at the first product: rotation, KV write, attention.

What it computes is `models.kv_cache.enter` and then attention of one query a request. Alone,
`pallas_kernels.rope_write` takes as long as the attention of a short context, most of it the start
of a kernel and the way of its operands; here they travel while the first pages do. The new key and
value take part from shared memory, and are written to their page when it has been read.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxtyping import Array, Float, Int

from pallas_kernels.combine_splits import combine_splits
from pallas_kernels.decode_items import Item
from pallas_kernels.decode_loop import (
    Pages,
    Results,
    Start,
    attend_items,
    copy_if,
    pages_scratch,
    results_scratch,
)
from pallas_kernels.head_rotation import load_angles, load_sum, spread_angles, turn_heads
from pallas_kernels.head_rotation import takes_heads as turns_heads
from pallas_kernels.online_softmax import LOG2_E, TILE_M, Sums, no_sums, swizzled
from pallas_kernels.paged_decode import TuningConfig, grid_of, out_types, own_items, padded_rows

_BY_COLUMN = plgpu.Layout.WGMMA.reduce(0)  # one value a column of a tile


def takes_heads(*, group: int, head_dim: int) -> bool:
    """Whether the kernel is made for such heads."""
    return turns_heads(num_heads=group + 1, head_dim=head_dim) and group <= 16


@partial(jax.jit, static_argnames=("config", "interpret"))
def decode_step(
    terms: Float[Array, "terms T K G+2 H"],
    bias: Float[Array, "K G+2 H"],
    rope: tuple[Float[Array, "T H/2"], Float[Array, "T H/2"]],
    k_pages: Float[Array, "pages K page H"],
    v_pages: Float[Array, "pages K page H"],
    page_tables: Int[Array, "B P"],
    positions: Int[Array, " B"],
    *,
    config: TuningConfig,
    interpret: Any = None,
) -> tuple[Float[Array, "B K G H"], Float[Array, "pages K page H"], Float[Array, "pages K page H"]]:
    """Softmax attention of one new token a request, whose key and value are written to its page.

    Args:
        terms: sum up to a kv head's G queries, its key and its value; the first B tokens count.
        rope: cosine and sine of every token's angles.
        k_pages, v_pages: of 16 bits; finite numbers also where nothing was written.
        positions: of the tokens; -1 for padding, which gives zeros and is written nowhere.
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.

    Returns:
        the result in the type of the pages, the pages; NaN and inf among keys and values become 0.

    Raises:
        ValueError: heads that the kernel does not take.
    """
    num_terms, _, num_kv_heads, own_heads, head_dim = terms.shape
    group, dtype = own_heads - 2, k_pages.dtype
    if not takes_heads(group=group, head_dim=head_dim):
        raise ValueError(f"groups of {group} heads of {head_dim} are not what the kernel takes")
    if dtype.itemsize != 2 or v_pages.dtype != dtype:
        raise ValueError(f"pages must have one 16-bit type, got {dtype}, {v_pages.dtype}")
    half, keys = head_dim // 2, config.pages_per_step * k_pages.shape[2]
    cos, sin = (spread_angles(x, group + 1) for x in rope)
    # written in place, which a kernel does through references alone
    k_ref, v_ref = jax.new_ref(k_pages), jax.new_ref(v_pages)
    kwargs = {} if interpret is None else {"interpret": interpret}
    results = plgpu.kernel(
        partial(_kernel, k_gmem=k_ref, v_gmem=v_ref, config=config),
        out_type=out_types(len(positions), num_kv_heads, group, head_dim, dtype, config=config),
        grid=grid_of(len(positions), num_kv_heads, config),
        grid_names=("instance", "split"),
        kernel_name="decode_step",
        scratch_types={
            "in_smem": [plgpu.SMEM((num_terms, group + 1, half), terms.dtype)] * 2,
            "bias_smem": [plgpu.SMEM((group + 1, half), bias.dtype)] * 2,
            "heads_smem": [
                plgpu.SMEM(
                    (TILE_M if interpret is not None else padded_rows(group + 1), half), dtype
                )
            ]
            * 2,
            "value_in_smem": plgpu.SMEM((num_terms, head_dim), terms.dtype),
            "value_bias_smem": plgpu.SMEM((head_dim,), bias.dtype),
            "value_smem": plgpu.SMEM((head_dim,), dtype),
            "barrier": plgpu.Barrier(num_arrivals=6),
            "pages": pages_scratch(
                config.num_stages,
                keys,
                head_dim,
                dtype,
                pages_per_step=config.pages_per_step,
                interpret=interpret,
            ),
            "results": results_scratch(config.num_splits, head_dim, dtype),
            "queries_smem": []
            if interpret is None
            else [plgpu.SMEM((TILE_M, half), dtype, transforms=swizzled(2))] * 2,
        },
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **kwargs,
    )(terms, bias, cos, sin, page_tables, positions + 1)
    out, *sums = results
    if sums:
        out = combine_splits(out, *sums, group=group, dtype=dtype, interpret=interpret)
    return out, jax.freeze(k_ref), jax.freeze(v_ref)


def _kernel(
    terms_gmem: Any,  # [terms, T, K, G + 2, H]
    bias_gmem: Any,  # [K, G + 2, H]
    cos_gmem: Any,  # [T, at once, H / 2]
    sin_gmem: Any,  # [T, at once, H / 2]
    tables_gmem: Any,  # [B, P]
    lengths_gmem: Any,  # [B], with the new token
    *out_gmem: Any,  # `out_types`
    k_gmem: Any,  # [pages, K, page, H]
    v_gmem: Any,  # [pages, K, page, H]
    in_smem: Any,  # [terms, G + 1, H / 2] twice: the halves of each query and the key
    bias_smem: Any,  # [G + 1, H / 2] twice
    heads_smem: Any,  # [G + 1 and more, H / 2] twice; read as tiles of 64, see _load
    value_in_smem: Any,  # [terms, H]
    value_bias_smem: Any,  # [H]
    value_smem: Any,  # [H]
    barrier: Any,
    pages: Pages,
    results: Results,
    queries_smem: Any,  # [64, H / 2] twice, which the interpreter needs; else nothing
    config: TuningConfig,
) -> None:
    page_size, group = k_gmem.shape[2], bias_gmem.shape[1] - 2
    half = bias_gmem.shape[2] // 2
    halves = [pl.ds(0, half), pl.ds(half, half)]
    items, total = own_items(lengths_gmem, k_gmem, config)

    def fetch(item: Item) -> None:
        row, head, value, others = item.row, item.head, group + 1, pl.ds(0, group + 1)
        ways = [
            (terms_gmem.at[:, row, head, value], value_in_smem),
            (bias_gmem.at[head, value], value_bias_smem),
        ]
        for part, where in enumerate(halves):
            ways.append((terms_gmem.at[:, row, head, others, where], in_smem[part]))
            ways.append((bias_gmem.at[head, others, where], bias_smem[part]))
        for gmem, smem in ways:
            plgpu.copy_gmem_to_smem(gmem, smem, barrier)

    fetch(items[0])

    places: list[tuple[Array, Array, Array]] = []  # of the items' new tokens

    def begin(i: int, item: Item) -> Start:
        angles = load_angles(cos_gmem.at[item.row], sin_gmem.at[item.row], group + 1)
        place = lengths_gmem[item.row] - 1
        number, offset = (op(place, jnp.int32(page_size)) for op in (lax.div, lax.rem))
        is_here = (item.steps > 0) & (item.first <= number) & (number <= item.last)
        places.append((is_here, tables_gmem[item.row, number], offset))
        plgpu.barrier_wait(barrier)
        turn_heads(in_smem, bias_smem, heads_smem, angles, group=group)
        value_smem[...] = _value(value_in_smem, value_bias_smem, value_smem.dtype)
        plgpu.commit_smem()
        if i + 1 < len(items):
            fetch(items[i + 1])
        load = partial(_load, interpreted=bool(queries_smem))
        queries = [load(smem, TILE_M, plgpu.Layout.WGMMA) for smem in heads_smem]
        key = [load(smem.at[group], None, _BY_COLUMN) for smem in heads_smem]
        value = load(value_smem, None, _BY_COLUMN)
        for smem, values in zip(queries_smem, queries, strict=False):
            smem[...] = values
            plgpu.commit_smem()

        def multiply(acc_ref: Any, keys_smem: Any) -> None:
            for left, where in zip(queries_smem or queries, halves, strict=True):
                plgpu.wgmma(acc_ref, left, keys_smem.at[:, where].transpose((1, 0)))

        sums = _sums_of(queries, key, value, is_here)
        return Start(multiply, sums, jnp.minimum(item.end, place))

    def end(i: int, item: Item) -> None:
        is_here, page, offset = places[i]
        for smem, where in zip(heads_smem, halves, strict=True):
            copy_if(is_here, smem.at[group], k_gmem.at[page, item.head, offset, where])
        copy_if(is_here, value_smem, v_gmem.at[page, item.head, offset])

    attend_items(
        items,
        total,
        k_gmem,
        v_gmem,
        tables_gmem,
        out_gmem,
        pages=pages,
        results=results,
        begin=begin,
        end=end,
        keeps=False,
    )


def _value(terms_smem: Any, bias_smem: Any, dtype: Any) -> Array:
    """The new value [H]; NaN and inf become 0."""
    layout = plgpu.Layout.WG_STRIDED(bias_smem.shape, vec_size=1)
    terms = [terms_smem.at[i] for i in range(terms_smem.shape[0])]
    total = load_sum([*terms, bias_smem], layout, dtype)
    return jnp.where(jnp.abs(total) < jnp.inf, total, 0.0).astype(dtype)


def _sums_of(queries: list[Array], key: list[Array], value: Array, is_here: Array) -> Sums:
    """Sums over the new token alone, or over nothing.

    Args:
        queries, key: [64, H / 2] and [H / 2], twice: the halves.
        value: [H]
    """
    scores = [
        (own.astype(jnp.float32) * _along(other.astype(jnp.float32), own.shape)).sum(axis=1)
        for own, other in zip(queries, key, strict=True)
    ]
    nothing = no_sums(value.shape[0])
    here = jnp.where(is_here, 1.0, 0.0)  # a factor: whole tiles cannot be chosen by one condition
    acc = _along(value.astype(jnp.float32), nothing.acc.shape)
    top = (scores[0] + scores[1]) * LOG2_E
    return Sums(acc * here, top * here + nothing.top * (1 - here), nothing.total + here)


def _load(smem: Any, rows: int | None, layout: Any, *, interpreted: bool) -> Array:
    """What lies in rows, in a layout of matrix instructions.

    `rows` of a tile may reach past it, into the pages, which lie behind (memory is given out in the
    order of the scratch's names): what they hold does not mix in, and whole tiles of heads would
    leave no room for a second instance.
    """
    shape = smem.shape if rows is None else (rows, *smem.shape[1:])
    if interpreted:
        return plgpu.load(smem, layout=layout, optimized=False)
    own = layout.to_mgpu()

    # not `plgpu.load`, which looks for a tiling of the memory even where it is said to have none
    @plgpu.inline_mgpu(  # type: ignore[untyped-decorator]
        arg_types=(plgpu.RefType(),),
        return_type=plgpu.ShapeDtypeStruct(shape, smem.dtype, layout=layout),
    )
    def load(_: Any, ref: Any) -> Any:
        if rows is not None:
            kind = ir.MemRefType.get(shape, ref.type.element_type, memory_space=mgpu.utils.smem())
            ref = mgpu.utils.ptr_as_memref(mgpu.utils.memref_ptr(ref), kind)
        # few values, once: banks may collide
        return mgpu.FragmentedArray.load_untiled(ref, layout=own, optimized=False)

    loaded: Array = load(smem)
    return loaded


def _along(values: Array, shape: tuple[int, ...]) -> Array:
    """One value a column, along the columns."""
    return lax.broadcast_in_dim(values, shape, [1])
