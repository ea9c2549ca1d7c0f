"""An engine loop around a device of numpy, and a tiny model: behind its programs, and as `LLM`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.numpy_device import BAD, PAGE, expected_answer, expected_states
from tests.runtime.step_loop import StepLoop


@pytest.fixture(scope="session")
def step_loop() -> type[StepLoop]:
    return StepLoop


@pytest.fixture(scope="session")
def expected() -> Any:
    """request -> the tokens it must get."""
    return expected_answer


@pytest.fixture(scope="session")
def states() -> Any:
    """request -> the hidden state of each of its prompt's tokens."""
    return expected_states


@pytest.fixture(scope="session")
def make_request() -> Any:
    """(id, prompt, max_tokens, …) -> Request; a number as prompt is its length."""
    from runtime.engine_request import Request
    from runtime.request import SamplingParams

    def make(
        request_id: int, prompt: list[int] | int, max_tokens: int = 4, **changes: Any
    ) -> Request:
        params = {
            name: changes.pop(name)
            for name in list(changes)
            if name in SamplingParams.__dataclass_fields__ and name != "seed"
        }
        ids = (
            [(7 * request_id + i) % BAD for i in range(prompt)]
            if isinstance(prompt, int)
            else prompt
        )
        return Request(
            request_id, ids, SamplingParams(max_tokens=max_tokens, **params), max_tokens, **changes
        )

    return make


@dataclass(frozen=True)
class Served:
    """A tiny model behind its compiled programs."""

    runner: Any
    config: Any
    buckets: Any
    shape: Any
    log: Any

    def scheduler(self, **changes: Any) -> Any:
        """A scheduler for the runner, with all its pages free."""
        from runtime.page_pool import PagePool
        from runtime.scheduler import Limits, Scheduler

        num_blocks = changes.pop("num_blocks", self.buckets.max_tokens // PAGE)
        limits = Limits(
            self.buckets.num_slots, num_blocks, PAGE, PAGE, self.shape.pages_per_request
        )
        pool = PagePool(changes.pop("num_pages", self.runner.num_pages))
        return Scheduler(limits, pool, **changes)

    def run(self, requests: list[Any], **changes: Any) -> dict[int, list[Any]]:
        """Serves requests one step ahead; the outputs of each."""
        from runtime.step_input import make_step_input

        scheduler = self.scheduler(**changes)
        outputs: dict[int, list[Any]] = {request.request_id: [] for request in requests}
        for request in requests:
            scheduler.add(request)
        before = None
        while scheduler.has_work or before:
            plan = scheduler.schedule()
            started = None
            if plan:
                step = make_step_input(plan, self.buckets, self.shape)
                started = self.runner.sample(step, self.runner.forward(step))
            if before:
                for output in scheduler.update(before[0], *self.runner.read(*before)):
                    outputs[output.request_id].append(output)
            before = (plan, started) if plan else None
        return outputs


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    import jax.numpy as jnp

    from benchmarks.make_gguf import write_gguf
    from models.config import model_config
    from models.gguf_file import open_gguf
    from models.load import load_model
    from models.mesh import make_mesh
    from models.operations import Operations
    from runtime.buckets import Buckets
    from runtime.compile_log import CompileLog
    from runtime.model_runner import ModelRunner
    from runtime.step_input import StepShape

    path: Path = write_gguf(tmp_path_factory.mktemp("served") / "tiny.gguf")
    file = open_gguf(path)
    config = model_config(file)
    mesh = make_mesh(1)
    buckets, shape = Buckets(4, 128, 2), StepShape(4, 8, config.vocab_size)
    log = CompileLog()
    runner = ModelRunner(
        load_model(file, config, mesh, dtype="float32"),
        mesh,
        buckets=buckets,
        shape=shape,
        num_pages=33,  # as of `llm`: the same programs
        kv_dtype=jnp.dtype("float32"),
        operations=Operations(),
        num_threads=2,
    )
    return Served(runner, config, buckets, shape, log)


@pytest.fixture(scope="session")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The Python face on a tiny random model: 2 layers, 512 tokens, 4 requests at once."""
    from benchmarks.make_gguf import write_gguf
    from runtime.llm import LLM

    path = write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", size="tiny")
    options = {"max_model_len": 512, "max_num_seqs": 4, "max_num_batched_tokens": 128}
    functions = {
        "logits_processors": {"ban": ban_even, "climb": climb},
        "samplers": {"low": lowest},
    }
    with LLM(str(path), dtype="float32", **options, **functions) as llm:
        yield llm


@pytest.fixture(scope="session")
def plain_forward() -> Any:
    """(llm, tokens, …) -> what `llm.model.forward` gives for them, in programs of few lengths."""
    import jax.numpy as jnp

    def plain_forward(llm: Any, tokens: list[int], **options: Any) -> Any:
        length = len(tokens)
        padded = np.pad(tokens, (0, -length % 224))  # no token sees those after it
        logits, record = llm.model.forward(llm.params, jnp.asarray(padded), **options)
        record = {name: np.asarray(values)[:length] for name, values in record.items()}
        for name in record:
            if name.endswith("attn.pattern"):
                record[name] = record[name][..., :length]
        return np.asarray(logits)[:length], record

    return plain_forward


def ban_even(scores: Any, state: Any) -> Any:
    """A processor without memory: odd tokens alone."""
    import jax.numpy as jnp

    return jnp.where(jnp.arange(scores.shape[0]) % 2 == 0, -jnp.inf, scores), state


def climb(scores: Any, state: Any) -> Any:
    """A processor with one: each token is the last plus the number of calls before."""
    import jax.numpy as jnp

    calls = state.get("calls", jnp.int32(0))
    wanted = state["last_token"] + calls
    return jnp.where(jnp.arange(scores.shape[0]) == wanted, 0, -jnp.inf), state | {
        "calls": calls + 1
    }


def lowest(scores: Any, key: Any, params: Any) -> Any:
    """A sampler: drawn among the worst tokens, as many as top_k says."""
    import jax
    import jax.numpy as jnp

    worst = jnp.argsort(scores)[:8]
    return worst[jax.random.randint(key, (), 0, jnp.maximum(params["top_k"], 1))]
