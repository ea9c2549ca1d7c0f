"""Adding to the residual stream and the norm after it, as one kernel on Hopper.

XLA makes two or three kernels of it, and in a step of few tokens each costs its launch: 7 µs a
layer (docs/performance.md).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

WARPGROUP = 128  # threads


def rms_norm(x: Float[Array, "T D"], scale: Float[Array, " D"], eps: float) -> Float[Array, "T D"]:
    """Root-mean-square norm, in float32.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
    """
    wide = x.astype(jnp.float32)
    wide = wide * lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (wide * scale).astype(x.dtype)


def add(x: Float[Array, "T D"], terms: Float[Array, "terms T D"]) -> Float[Array, "T D"]:
    """`x` with the terms added in float32, in the type of `x`."""
    return (x.astype(jnp.float32) + terms.astype(jnp.float32).sum(axis=0)).astype(x.dtype)


def add_norm(
    x: Float[Array, "T D"], terms: Float[Array, "terms T D"], scale: Float[Array, " D"], eps: float
) -> tuple[Float[Array, "T D"], Float[Array, "T D"]]:
    """`x` with the terms added, in the type of `x`, and its norm."""
    x = add(x, terms)
    return x, rms_norm(x, scale, eps)


@partial(jax.jit, static_argnames=("eps", "interpret"))
def hopper_add_norm(
    x: Float[Array, "T D"],
    terms: Float[Array, "terms T D"],
    scale: Float[Array, " D"],
    eps: float,
    *,
    interpret: Any = None,
) -> tuple[Float[Array, "T D"], Float[Array, "T D"]]:
    """`add_norm` by the kernel, or by XLA if D is no multiple of 128.

    Args:
        interpret: `plgpu.InterpretGPUParams` to run on a CPU.
    """
    num_rows, width = x.shape
    if width % WARPGROUP:
        return add_norm(x, terms, scale, eps)
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    kwargs = {} if interpret is None else {"interpret": interpret}
    each = width // WARPGROUP
    added, normed = plgpu.kernel(
        partial(_kernel, eps=eps, vector=next(size for size in (4, 2, 1) if each % size == 0)),
        out_type=[shape, shape],
        grid=(num_rows,),
        grid_names=("row",),
        kernel_name="add_norm",
        **kwargs,
    )(x, terms, scale)
    return added, normed


def _kernel(
    x_gmem: Any,  # [T, D]
    terms_gmem: Any,  # [terms, T, D]
    scale_gmem: Any,  # [D]
    added_gmem: Any,  # [T, D]
    normed_gmem: Any,  # [T, D]
    *,
    eps: float,
    vector: int,  # neighbours that a thread reads at once
) -> None:
    row = lax.axis_index("row")
    width = x_gmem.shape[1]
    layout = plgpu.Layout.WG_STRIDED((width,), vec_size=vector)

    def read(ref: Any) -> Array:
        return plgpu.load(ref, layout=layout).astype(jnp.float32)

    parts = [x_gmem.at[row], *(terms_gmem.at[i, row] for i in range(terms_gmem.shape[0]))]
    wide, *others = [read(part) for part in parts]
    for other in others:
        wide = wide + other
    added = wide.astype(x_gmem.dtype)
    added_gmem[row] = added
    wide = added.astype(jnp.float32)
    wide = wide * lax.rsqrt(jnp.sum(wide * wide) / width + eps)
    normed_gmem[row] = (wide * read(scale_gmem)).astype(normed_gmem.dtype)
