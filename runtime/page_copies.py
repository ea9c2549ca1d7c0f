"""Copies pages of the KV cache on the device, for contexts that part in the middle of a page."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array

from models.kv_cache import KVCache


@partial(jax.jit, donate_argnames="cache")
def _copy(cache: KVCache, source: Array, target: Array) -> KVCache:
    return jax.tree.map(lambda pages: pages.at[:, target].set(pages[:, source]), cache)


def copy_pages(cache: KVCache, copies: Sequence[tuple[int, int]]) -> KVCache:
    """The cache with each (source, target) page copied in every layer, in place.

    Compiles at its first call: experiments alone need it.
    """
    with jax.no_tracing(False):
        for source, target in copies:
            cache = _copy(cache, np.int32(source), np.int32(target))
    return cache
