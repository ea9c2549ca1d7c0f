"""The engine on a GPU: the same answers as a plain forward pass, in place and without compiling."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.accuracy import Scorer
from benchmarks.make_gguf import write_gguf
from models import demo
from runtime.buckets import Bucket, Buckets
from runtime.forward_in_two import ForwardInTwo
from runtime.llm import LLM
from runtime.request import SamplingParams

pytestmark = pytest.mark.gpu

NEAR_TIE = 1e-3
SMALL = {"max_model_len": 1024, "max_num_seqs": 8, "max_num_batched_tokens": 256}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_gguf(path, size="tiny")
    return path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_greedy_answers_are_those_of_a_plain_forward(tiny: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 500, n).tolist() for n in (1, 5, 63, 64, 65, 200)]
    with LLM(str(tiny), dtype=dtype, **SMALL) as llm:
        outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=40))
    scorer = Scorer(tiny, "float32")
    for prompt, output in zip(prompts, outputs, strict=True):
        answer = output.outputs[0].token_ids
        rows = scorer.log_probs(prompt + answer)[len(prompt) - 1 : -1]
        behind = rows.max(axis=1) - rows[np.arange(len(answer)), answer]
        # bfloat16 keeps 8 bits of each number, and the scores are of the order of 10
        assert behind.max() <= (NEAR_TIE if dtype == "float32" else 0.3)


def test_the_embedded_model_answers_as_a_plain_forward_in_float32() -> None:
    with LLM("demo", dtype="bfloat16", **SMALL) as llm:
        prompts = [llm.tokenize(text) for text in ("def fib(n):\n", "import numpy as", "class A")]
        outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=60))
    scorer = Scorer(demo.PATH, "float32")
    for prompt, output in zip(prompts, outputs, strict=True):
        answer = output.outputs[0].token_ids
        rows = scorer.log_probs(prompt + answer)[len(prompt) - 1 : -1]
        behind = rows.max(axis=1) - rows[np.arange(len(answer)), answer]
        assert behind.max() <= 0.05  # a near-tie


@pytest.fixture
def in_two(monkeypatch: pytest.MonkeyPatch) -> list[ForwardInTwo]:
    """Every step with a prompt is two programs; a list of those that ran."""

    def all_prompts(config: object, buckets: Buckets, *_: object, **__: int) -> dict[Bucket, int]:
        return {bucket: 1 for bucket in buckets.all if bucket.num_blocks}

    ran: list[ForwardInTwo] = []
    call = ForwardInTwo.__call__

    def counted(self: ForwardInTwo, *arguments: Any) -> Any:
        ran.append(self)
        return call(self, *arguments)

    monkeypatch.setattr("runtime.start.first_layers", all_prompts)
    monkeypatch.setattr(ForwardInTwo, "__call__", counted)
    return ran


def test_prompts_that_begin_with_a_program_of_few_layers(
    tiny: Path, in_two: list[ForwardInTwo]
) -> None:
    prompts = [np.random.default_rng(n).integers(0, 500, n).tolist() for n in (5, 64, 200, 250)]
    params = SamplingParams(temperature=0, max_tokens=8)
    with LLM(str(tiny), dtype="float32", **SMALL) as llm:
        answers = [llm.generate([prompt], params)[0].outputs[0].token_ids for prompt in prompts]
    assert len(in_two) == len(prompts)
    scorer = Scorer(tiny, "float32")
    for prompt, answer in zip(prompts, answers, strict=True):
        rows = scorer.log_probs(prompt + answer)[len(prompt) - 1 : -1]
        behind = rows.max(axis=1) - rows[np.arange(len(answer)), answer]
        assert behind.max() <= NEAR_TIE


def test_every_program_writes_the_cache_in_place(tiny: Path, in_two: list[ForwardInTwo]) -> None:
    # a pool that is larger than the activations of a step
    with LLM(str(tiny), max_model_len=2048, max_num_seqs=64, max_num_batched_tokens=256) as llm:
        runner = llm.engine.runner
        pool = runner._cache.k
        programs = list(runner.programs.forward.values())
        for two in runner.programs.in_two.values():
            programs += [two.begin, two.go_on]
        assert len(programs) == len(llm.engine.buckets.all) + 2 * len(llm.engine.buckets.blocks)
        for program in programs:
            memory = program.memory_analysis()
            assert memory.alias_size_in_bytes >= 2 * pool.nbytes
            assert memory.temp_size_in_bytes < pool.nbytes


def test_the_device_is_a_gpu() -> None:
    assert jax.devices()[0].platform == "gpu"
    assert jnp.ones(1).device.platform == "gpu"
