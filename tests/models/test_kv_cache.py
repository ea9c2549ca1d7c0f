"""Steps write the pool of keys and values where it is."""

import jax
import jax.numpy as jnp
import pytest

from models.config import PAGE_SIZE
from models.kv_cache import KVCache, ModelInput, make_paged_attention
from models.projection import Projection
from pallas_kernels.paged_attention import paged_attention

LAYERS, PAGES, HEAD_DIM, GROUP, TOKENS = 2, 65, 64, 2, 2


@pytest.mark.parametrize("num_kv_heads", [1, 2])
def test_no_step_copies_the_pool(num_kv_heads):
    shape = (LAYERS, PAGES, num_kv_heads, PAGE_SIZE, HEAD_DIM)
    pool = jax.ShapeDtypeStruct(shape, jnp.float32)
    rope = (jnp.ones((TOKENS, HEAD_DIM // 2)), jnp.zeros((TOKENS, HEAD_DIM // 2)))
    bias = jnp.zeros((num_kv_heads, GROUP + 2, HEAD_DIM))

    def run(cache, terms, positions, page_table):
        places = jnp.arange(TOKENS)
        step = ModelInput(places, positions, places, jnp.zeros(0, jnp.int32), page_table)
        attention = make_paged_attention(step, paged_attention)
        for layer in range(LAYERS):
            projection = Projection(layer, terms, bias, rope, jnp.dtype("float32"))
            out, cache = attention(projection, cache)
            terms = terms.at[..., :GROUP, :].add(out)
        return cache, terms

    program = (
        jax.jit(run, donate_argnums=0)
        .lower(
            KVCache(pool, pool),
            jax.ShapeDtypeStruct((1, TOKENS, *bias.shape), jnp.float32),
            jax.ShapeDtypeStruct((TOKENS,), jnp.int32),
            jax.ShapeDtypeStruct((TOKENS, PAGES), jnp.int32),
        )
        .compile()
    )
    one = pool.size * pool.dtype.itemsize
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= 2 * one
    assert memory.temp_size_in_bytes < one
