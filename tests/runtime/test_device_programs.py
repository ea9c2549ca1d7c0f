"""Steps on two GPUs that reach each other: no sum or gather of XLA's cuts their graph in two."""

from tests.virtual_devices import run_on_devices

CODE = """
import json
from dataclasses import replace
import jax, jax.numpy as jnp
from models import demo
from models.config import model_config
from models.gguf_file import open_gguf
from models.load import load_model
from models.mesh import make_mesh
from models.operations import Operations
from runtime.buckets import Bucket, SampleBucket, SampleMode
from runtime.exchange import Exchange
from runtime.model_runner import empty_cache
from runtime.part import take_apart
from runtime.slots import empty_slots
from runtime.step_input import StepShape, forward_packing
from runtime.step_functions import StepFunctions
from tests.hopper import lower_for_h200

file = open_gguf(demo.PATH)
config, mesh = model_config(file), make_mesh(2)
model = load_model(file, config, mesh, dtype="bfloat16")
shape = StepShape(4, 4, config.vocab_size)
decoder, head = take_apart(model.decoder), take_apart(model.head)
state = replace(
    empty_slots(4, pages_per_request=4, vocab_size=config.vocab_size),
    peers=Exchange(mesh, width=config.width).peers,
)
cache = empty_cache(config, mesh, num_pages=9, dtype=jnp.dtype("bfloat16"))
functions = StepFunctions(decoder, head, mesh, shape, Operations(one_shot=True))
found = {}

def look(name, function, *arguments):
    text = lower_for_h200(function.jit(), *arguments).as_text()
    words = ("all_reduce", "all_gather", "partition_id", "mosaic_gpu")
    found[name] = [word for word in words if word in text]

for bucket in (Bucket(4, 0), Bucket(128, 2), Bucket(256, 4)):
    vector = jax.ShapeDtypeStruct((forward_packing(bucket, shape).size,), jnp.int32)
    look(bucket.name, functions.forward(bucket), decoder.leaves, cache, state, vector)
hidden = jax.ShapeDtypeStruct((68, config.width), jnp.bfloat16)
for mode in (SampleMode.GREEDY, SampleMode.CANDIDATES, SampleMode.UNLIMITED):
    look(mode.label, functions.sample(SampleBucket(4, mode)), head.leaves, state, hidden)
print(json.dumps(found))
"""


def test_small_steps_have_neither_sums_nor_gathers_of_xla():
    found = run_on_devices(2, CODE)
    for name in ("decode_4", "prefill_128", "greedy", "candidates"):
        assert found[name] == ["mosaic_gpu"], name
    assert found["prefill_256"] == ["all_reduce"]
    assert "all_gather" in found["unlimited"]
