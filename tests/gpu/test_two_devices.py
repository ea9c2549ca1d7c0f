"""The engine on two GPUs: the tokens of one, and the devices' memory instead of XLA's sums."""

import jax
import pytest

from benchmarks.accuracy import Scorer
from models import demo
from runtime.dispatch_thread import model_runner
from runtime.llm import LLM
from runtime.request import SamplingParams

pytestmark = pytest.mark.gpu

SMALL = {"max_model_len": 1024, "max_num_seqs": 8, "max_num_batched_tokens": 256}
TEXTS = ("def fib(n):\n", "import numpy as", "class A", "for i in range(")


@pytest.fixture(scope="module")
def answers():
    """The greedy answers of one device and of two, and what is drawn among the best."""
    if jax.device_count() < 2:
        pytest.skip("needs 2 CUDA devices")
    found = []
    for size in (1, 2):
        with LLM("demo", dtype="bfloat16", tensor_parallel_size=size, **SMALL) as llm:
            prompts = [llm.tokenize(text) for text in TEXTS]
            ways = (
                SamplingParams(temperature=0, max_tokens=60, ignore_eos=True),
                SamplingParams(temperature=0.8, top_k=20, seed=5, max_tokens=40, ignore_eos=True),
            )
            tokens = [
                [out.outputs[0].token_ids for out in llm.generate(prompts, params)]
                for params in ways
            ]
            peers = model_runner(llm.engine.runner)._state.peers
        found.append((*tokens, peers))
    return prompts, found


def first_difference(one, two):
    return next(
        (i for i, pair in enumerate(zip(one, two, strict=True)) if len(set(pair)) > 1), None
    )


def test_two_devices_answer_as_one_up_to_a_near_tie(answers):
    prompts, ((one, _, _), (two, _, _)) = answers
    scorer = Scorer(demo.PATH, "float32")
    for prompt, alone, together in zip(prompts, one, two, strict=True):
        first = first_difference(alone, together)
        if first is not None:
            row = scorer.log_probs(prompt + alone)[len(prompt) - 1 + first]
            assert abs(row[alone[first]] - row[together[first]]) <= 0.05


def test_what_is_drawn_among_the_best_is_the_same_at_first(answers):
    _, ((_, one, _), (_, two, _)) = answers
    # a draw falls beside a boundary now and then, and the answers part there
    same = [first_difference(alone, together) for alone, together in zip(one, two, strict=True)]
    assert sum(first is None or first >= 8 for first in same) >= len(same) - 1


def test_devices_reach_each_other_where_the_kernels_fit(answers):
    _, ((_, _, alone), (_, _, together)) = answers
    assert alone is None
    assert together is not None and together.inboxes.shape == (2, 2)
