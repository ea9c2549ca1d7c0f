"""The random key of a token: of its request's seed, its choice and its place, of nothing else."""

import jax
from jaxtyping import Array


def token_key(seed: Array, position: Array) -> Array:
    """`seed`: uint32 [3], high and low half and the number of the choice."""
    root = jax.random.wrap_key_data(seed[:2], impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(root, seed[2]), position)
