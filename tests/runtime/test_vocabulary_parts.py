"""A vocabulary on several devices: what is chosen is what one device would choose."""

import numpy as np

from tests.virtual_devices import run_on_devices

CODE = """
import json, jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import PartitionSpec as P
from models.mesh import TP, make_mesh
from runtime.buckets import SampleMode
from runtime.slots import empty_slots
from runtime.step import sample
from runtime.vocabulary_parts import VocabularyParts
from dataclasses import replace

ROWS, V, PADDED = 8, 210, 212
scores = np.random.default_rng(0).normal(0, 3, (ROWS, V)).astype(np.float32)
scores[1, 5] = scores[1, 209] = 30  # a tie between devices
scores[2, 60] = np.nan
padded = np.pad(scores, ((0, 0), (0, PADDED - V)), constant_values=99)
state = empty_slots(ROWS, pages_per_request=1, vocab_size=V)
state = replace(
    state,
    seeds=jnp.arange(3 * ROWS, dtype=jnp.uint32).reshape(ROWS, 3),
    sampling=jnp.tile(jnp.array([1.0, 0.9, 0.0]), (ROWS, 1)),
    top_k=jnp.full(ROWS, 7, jnp.int32),
)
state = replace(state, sampling=state.sampling.at[:4, 0].set(0.0))
rows = np.stack([np.arange(ROWS), np.full(ROWS, 9), np.zeros(ROWS), np.full(ROWS, -1)], axis=1)
state = replace(state, samples=state.samples.at[:ROWS].set(rows))

def run(mode, parts, state, scores):
    return sample(lambda x: x, state, scores, num_rows=ROWS, parts=parts, mode=mode)[1]

found = {}
for mode in (SampleMode.GREEDY, SampleMode.CANDIDATES, SampleMode.UNLIMITED):
    one = jax.jit(partial(run, mode, None))(state, scores)
    many = jax.jit(jax.shard_map(
        partial(run, mode, VocabularyParts(V)), mesh=make_mesh(4),
        in_specs=(P(), P(None, TP)), out_specs=P(), check_vma=False,
    ))(state, padded)
    found[mode.label] = [np.asarray(x)[:, :2].tolist() for x in (one, many)]
print(json.dumps(found))
"""


def test_four_devices_choose_what_one_does():
    found = run_on_devices(4, CODE)
    finite = [1, 1, 0, 1, 1, 1, 1, 1]
    for mode, (one, many) in found.items():
        tokens, flags = np.array(many).T
        assert flags.tolist() == np.array(one)[:, 1].tolist() == finite, mode
        fine = flags == 1
        assert tokens[fine].tolist() == np.array(one)[fine, 0].tolist(), mode
        assert tokens[1] == 5, "the first of equals"
    assert found["greedy"][0] != found["candidates"][0]
