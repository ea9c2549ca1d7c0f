"""With `batch_invariant`, a request is answered with the same bits whatever else runs."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.make_gguf import write_gguf
from runtime.buckets import Bucket, Buckets, SampleBucket, SampleMode
from runtime.llm import LLM
from runtime.page_pool import PagePool
from runtime.request import SamplingParams
from runtime.scheduler import Scheduler
from runtime.step_plan import Limits

PROMPTS = [[(7 * i + j) % 1000 for j in range(n)] for i, n in enumerate((1, 65, 129, 200, 64, 30))]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path: Path = write_gguf(tmp_path_factory.mktemp("invariant") / "tiny.gguf")
    options = {"max_model_len": 512, "max_num_seqs": 4, "max_num_batched_tokens": 256}
    with LLM(str(path), dtype="float32", batch_invariant=True, **options) as llm:
        yield llm


def bits(output: Any) -> list[tuple[int, str]]:
    """Tokens and log-probabilities, of which every bit counts."""
    (answer,) = output.outputs
    assert answer.logprobs is not None
    return [
        (token, {other: item.logprob.hex() for other, item in entry.items()})
        for token, entry in zip(answer.token_ids, answer.logprobs, strict=True)
    ]


def params(seed: int, max_tokens: int = 12) -> SamplingParams:
    return SamplingParams(
        temperature=seed % 2, seed=seed, max_tokens=max_tokens, logprobs=5, ignore_eos=True
    )


def test_alone_in_a_batch_and_beside_others_are_the_same_bits(llm: LLM) -> None:
    own = [params(i) for i in range(len(PROMPTS))]
    alone = [bits(llm.generate([p], q)[0]) for p, q in zip(PROMPTS, own, strict=True)]
    assert [bits(output) for output in llm.generate(PROMPTS, own)] == alone
    rng = random.Random(0)
    for _ in range(2):  # other neighbours, other chunks, other slots and pages
        order = rng.sample(range(len(PROMPTS)), len(PROMPTS))
        others = [[rng.randrange(1000)] * rng.randrange(1, 300) for _ in order]
        prompts = [p for i, other in zip(order, others, strict=True) for p in (other, PROMPTS[i])]
        mixed = [
            q for i in order for q in (params(rng.randrange(99), rng.randrange(1, 40)), own[i])
        ]
        outputs = llm.generate(prompts, mixed)
        assert {i: bits(output) for i, output in zip(order, outputs[1::2], strict=True)} == dict(
            enumerate(alone)
        )


def test_a_prefix_from_the_cache_changes_no_bit(llm: LLM) -> None:
    prompt = [(11 * i) % 997 for i in range(150)]
    first, again = (llm.generate([prompt], params(1))[0] for _ in range(2))
    assert (first.num_cached_tokens, again.num_cached_tokens) == (0, 128)
    assert bits(first) == bits(again)
    # answers were computed as rows, so their pages are not for others
    (longer,) = llm.generate([prompt], params(1, 60))
    answered = prompt + longer.outputs[0].token_ids
    (after,) = llm.generate([answered], params(2))
    assert after.num_cached_tokens == 128


def test_there_is_one_shape_of_each_kind() -> None:
    buckets = Buckets(8, 512, 2, one_shape=True)
    assert buckets.all == [Bucket(8, 0), Bucket(512, 8)]
    every = SampleBucket(buckets.max_rows, SampleMode.FULL)
    assert buckets.samples == [every]
    assert buckets.for_step(1, 0) == Bucket(8, 0)
    assert buckets.for_step(0, 1) == Bucket(512, 8)
    assert buckets.for_samples(1, SampleMode.GREEDY) == every


def test_no_step_mixes_and_nobody_is_preempted(step_loop: Any, make_request: Any) -> None:
    """A pool in which the ordinary scheduler preempts."""
    limits = Limits(4, 4, 64, 64, 8)
    scheduler = Scheduler(limits, PagePool(13), batch_invariant=True)
    requests = [make_request(i, 60 + 40 * (i % 3), 150) for i in range(6)]
    for request in requests:
        scheduler.add(request)
    from runtime.step_plan import SampledToken

    while scheduler.has_work:
        plan = scheduler.schedule()
        assert plan is not None
        assert not (plan.rows and plan.chunks)
        for item in plan.rows:
            assert item.start >= len(item.request.prompt_ids)
        for item in plan.chunks:
            assert item.start + item.num_tokens <= len(item.request.prompt_ids)
            assert item.start % 64 == 0
        scheduler.update(plan, [SampledToken(3, True)] * len(plan.samples))
        scheduler.check()
    assert scheduler.num_preemptions == 0
    assert all(len(request.output_ids) == 150 for request in requests)
