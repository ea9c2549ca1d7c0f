"""Experiments on a model that is cut over two devices see what they see on one."""

import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.make_gguf import write_gguf

type Found = dict[str, np.ndarray]

CODE = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from runtime.experiments.interventions import Add, Scale
from runtime.llm import LLM
from runtime.request import SamplingParams

def odd(scores, state):
    return jnp.where(jnp.arange(scores.shape[0]) % 2 == 0, -jnp.inf, scores), state

path, out = sys.argv[1:]
options = dict(max_model_len=128, max_num_seqs=2, max_num_batched_tokens=128, dtype="float32")
llm = LLM(path, **options, logits_processors={"odd": odd})
assert llm.info.tensor_parallel_size == len(jax.devices())
params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
heads, neurons = np.ones(llm.sites["layers.1.attn.z"]), llm.sites["layers.0.mlp.act"][0]
heads[1:] = 0
changes = [
    Scale("layers.1.attn.z", heads),
    Scale("layers.0.mlp.act", np.arange(neurons) % 3),
    Add("layers.0.resid_post", 0.5, positions=-1),
    Scale("layers.0.attn.pattern", 0.5, positions=3),
]
prompt = list(range(5, 35))
plain, changed = llm.generate(
    [prompt, prompt],
    params,
    capture=["embed", "layers.*.*", "layers.*.*.*", "final_norm", "logits"],
    interventions=[[], changes],
    logits_processors=[["odd"], []],
)
found = {f"plain {name}": values for name, values in plain.captured.items()}
found |= {f"changed {name}": values for name, values in changed.captured.items()}
found["odd"], found["free"] = plain.outputs[0].token_ids, changed.outputs[0].token_ids
(restored,) = llm.generate([llm.restore(llm.snapshot(prompt), [9, 8])], params)
found["restored"] = restored.outputs[0].token_ids
found["scores"] = np.concatenate([s.logprobs for s in llm.score(prompt, [[7, 3], [900]])])
forward = jax.jit(lambda tokens: llm.model.forward(llm.params, tokens, capture=["embed"])[0])
found["pure logits"] = np.asarray(forward(jnp.array(prompt)))
np.savez(out, **found)
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What one device gives, and two."""
    folder = tmp_path_factory.mktemp("devices")
    model = write_gguf(folder / "tiny.gguf")
    running = []
    for count in (1, 2):
        flags = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
        command = [sys.executable, "-c", CODE, str(model), str(folder / f"{count}.npz")]
        running.append(subprocess.Popen(command, env=os.environ | {"XLA_FLAGS": flags}))
    assert [process.wait(timeout=500) for process in running] == [0, 0]
    return [dict(np.load(folder / f"{count}.npz")) for count in (1, 2)]


def test_every_site_has_the_same_values(both: list[Found]) -> None:
    one, two = both
    sites = [name for name in one if name.startswith(("plain", "changed"))]
    assert len(sites) == 2 * (1 + 2 * 13 + 2)
    for name in sites:
        assert one[name].shape == two[name].shape
        error = np.linalg.norm(one[name] - two[name]) / np.linalg.norm(one[name])
        assert error < 5e-6, name
    moved = (one["changed logits"] - one["plain logits"])[:30]
    assert np.abs(moved).max() > 1e-2


def test_tokens_are_the_same(both: list[Found]) -> None:
    one, two = both
    for name in ("odd", "free", "restored"):
        assert one[name].tolist() == two[name].tolist(), name
    assert all(two["odd"] % 2)


def test_the_pure_function_and_scores_are_the_same(both: list[Found]) -> None:
    one, two = both
    for name in ("scores", "pure logits"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-4)
