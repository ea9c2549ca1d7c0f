"""Guides, prompt scores, embeddings and priorities, through the engine and compiled programs."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from runtime.engine import Engine
from runtime.errors import RequestError, UnsupportedParameter
from runtime.messages import EngineInfo
from runtime.request import SamplingParams
from runtime.structured_outputs import StructuredOutputs

PROMPT = list(range(20, 90))


@dataclass
class Script:
    """A guide that allows some tokens at each place, and checks that it is asked in order."""

    allowed: list[set[int]]
    fails_after: int = 1_000
    accepted: list[int] = field(default_factory=list)
    num_fills: int = 0

    @property
    def is_finished(self) -> bool:
        return len(self.accepted) == len(self.allowed)

    @property
    def error(self) -> str | None:
        return "out of words" if len(self.accepted) >= self.fails_after else None

    def fill(self, mask: np.ndarray) -> None:
        assert not mask.any() and not self.is_finished
        self.num_fills += 1
        for token_id in self.allowed[len(self.accepted)]:
            mask.view(np.uint32)[token_id // 32] |= np.uint32(1 << token_id % 32)

    def accept(self, token_id: int) -> None:
        assert token_id in self.allowed[len(self.accepted)]
        self.accepted.append(token_id)


class Spy:
    """A runner that writes down the order of its calls."""

    def __init__(self, runner: Any):
        self.runner = runner
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self.runner, name)


@pytest.fixture
def make_engine(served):
    def make(make_guide=None, runner=None, **changes) -> Engine:
        scheduler = served.scheduler(**changes)
        info = EngineInfo(
            model_name="tiny", device="", dtype="", attention="", tensor_parallel_size=1,
            max_model_len=512, max_num_seqs=4, page_size=64, num_pages=scheduler.pool.num_pages,
            vocab_size=served.config.vocab_size, num_programs=0, num_programs_cached=0,
            compile_seconds=0, load_seconds=0, weight_bytes=0, kv_bytes=0,
            step_bytes=0,
        )  # fmt: skip
        return Engine(
            scheduler, runner or served.runner, buckets=served.buckets, shape=served.shape,
            info=info, stop_ids=[], make_guide=make_guide,
            sites=served.runner.instrumented.shapes,
            pure_model=served.runner.pure_model,
        )  # fmt: skip

    return make


def run(engine: Engine) -> dict[int, list[Any]]:
    outputs: dict[int, list[Any]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    engine.scheduler.check()
    return outputs


def ids(outputs: list[Any]) -> list[int]:
    return [output.token_id for output in outputs if output.token_id is not None]


def script(length: int, width: int = 3) -> list[set[int]]:
    rng = np.random.default_rng(length)
    return [set(rng.integers(0, 1_000, width).tolist()) for _ in range(length)]


GUIDED = SamplingParams(max_tokens=30, structured_outputs=StructuredOutputs(json_object=True))
FREE = SamplingParams(max_tokens=9, seed=3)


def test_guided_answers_and_free_ones_share_steps(make_engine):
    guides = [Script(script(5)), Script(script(40)), Script(script(3, 1))]
    engine = make_engine(lambda wanted: guides[{"a": 0, "b": 1, "c": 2}[wanted.regex]])
    for request_id, name in enumerate("abc"):
        params = SamplingParams(
            max_tokens=8, structured_outputs=StructuredOutputs(regex=name), top_p=0.9
        )
        engine.add(request_id, PROMPT[: 5 + 30 * request_id], params, seed=request_id)
    engine.add(3, PROMPT, FREE, seed=3)
    outputs = run(engine)
    for request_id, (guide, length) in enumerate(zip(guides, (5, 8, 3), strict=True)):
        assert ids(outputs[request_id]) == guide.accepted
        assert len(guide.accepted) == guide.num_fills == length
    reasons = [outputs[request_id][-1].finish_reason for request_id in range(3)]
    assert reasons == ["stop", "length", "stop"]  # the second is cut off
    alone = make_engine()
    alone.add(3, PROMPT, FREE, seed=3)
    assert ids(run(alone)[3]) == ids(outputs[3])


def test_the_mask_is_made_while_the_forward_runs_and_only_where_one_is_needed(make_engine, served):
    spy = Spy(served.runner)
    engine = make_engine(lambda wanted: Script(script(3)), runner=spy)
    engine.add(0, PROMPT[:5], GUIDED)
    run(engine)
    guided = ["forward", "sample", "forward", "read", "sample", "forward", "read", "sample"]
    assert spy.calls[:8] == guided
    spy.calls.clear()
    engine.add(0, PROMPT[:5], FREE)
    run(engine)
    assert spy.calls[:5] == ["forward", "sample", "forward", "sample", "read"]


def test_a_preempted_guided_answer_accepts_each_token_once(make_engine):
    guides = [Script(script(100)), Script(script(90))]
    waiting = iter(guides)
    engine = make_engine(lambda wanted: next(waiting), num_pages=4)
    params = SamplingParams(max_tokens=100, structured_outputs=GUIDED.structured_outputs)
    for request_id in range(2):
        engine.add(request_id, PROMPT[:40], params)
    outputs = run(engine)
    assert engine.scheduler.num_preemptions
    for request_id, guide in enumerate(guides):
        assert ids(outputs[request_id]) == guide.accepted
        assert len(guide.accepted) == len(guide.allowed)


def test_a_guide_that_fails_ends_its_request_with_its_words(make_engine):
    engine = make_engine(lambda wanted: Script(script(9), fails_after=2))
    engine.add(0, PROMPT, GUIDED)
    engine.add(1, PROMPT, FREE)
    outputs = run(engine)
    assert (outputs[0][-1].finish_reason, outputs[0][-1].error) == ("error", "out of words")
    assert len(ids(outputs[0])) == 1
    assert outputs[1][-1].finish_reason == "length"


def test_without_guides_a_form_is_refused(make_engine):
    with pytest.raises(UnsupportedParameter, match="cannot constrain answers") as caught:
        make_engine().add(0, PROMPT, GUIDED)
    assert caught.value.param == "structured_outputs"


def test_scores_of_a_prompt_are_those_of_generating_it(make_engine):
    engine = make_engine()
    params = SamplingParams(max_tokens=60, temperature=0, logprobs=2)
    engine.add(0, PROMPT, params)
    answer = run(engine)[0]
    text = PROMPT + ids(answer)
    engine = make_engine(num_blocks=2)
    scoring = SamplingParams(max_tokens=3, temperature=0, logprobs=2, prompt_logprobs=2)
    engine.add(0, text, scoring)
    engine.add(1, PROMPT, FREE, seed=3)
    engine.add(2, text[:-20], scoring)
    outputs = run(engine)
    for request_id, length in ((0, len(text)), (2, len(text) - 20)):
        first, *others = outputs[request_id]
        assert first.prompt_logprobs[0] is None and len(first.prompt_logprobs) == length
        assert all(output.prompt_logprobs is None for output in others)
        assert [score[0] for score in first.prompt_logprobs[1:]] == text[1:length]
        for score, output in zip(first.prompt_logprobs[len(PROMPT) :], answer, strict=False):
            assert score[1] == pytest.approx(output.logprob, abs=1e-4)
            assert [i for i, _ in score[2]] == [i for i, _ in output.top_logprobs]
    assert ids(outputs[2])[0] == text[len(text) - 20]


def test_a_scored_prompt_is_not_taken_from_the_prefix_cache(make_engine):
    engine = make_engine()
    long = PROMPT * 3
    for request_id in range(2):
        engine.add(request_id, long, SamplingParams(max_tokens=1, prompt_logprobs=0))
        (output,) = run(engine)[request_id]
        assert len(output.prompt_logprobs) == len(long) and output.num_cached_tokens == 0
        assert all(score[2] == () for score in output.prompt_logprobs[1:])
    engine.add(2, long, FREE)
    assert run(engine)[2][0].num_cached_tokens == 192  # but its pages may be


def test_a_prompt_of_one_token_has_one_entry(make_engine):
    engine = make_engine()
    engine.add(0, PROMPT[:1], SamplingParams(max_tokens=1, prompt_logprobs=5))
    assert run(engine)[0][0].prompt_logprobs == (None,)


def test_an_embedding_is_the_last_state_or_the_mean_and_ends_the_request(make_engine):
    engine = make_engine()
    prompts = [PROMPT * 2, PROMPT[:64], PROMPT[:1], PROMPT[:9]]
    vectors = {}
    for pooling in ("last", "mean"):
        for request_id, prompt in enumerate(prompts):
            engine.add(request_id, prompt, SamplingParams(), pooling=pooling)
        engine.add(9, PROMPT, FREE, seed=3)
        outputs = run(engine)
        assert len(ids(outputs[9])) == 9
        for request_id in range(4):
            (output,) = outputs[request_id]
            assert (output.token_id, output.finish_reason) == (None, "stop")
            vectors[pooling, request_id] = np.frombuffer(output.embedding, np.float32)
    assert np.array_equal(vectors["last", 2], vectors["mean", 2])
    # a mean is the mean of what each of its beginnings ends in
    lasts = []
    for length in range(1, 10):
        engine.add(length, PROMPT[:length], SamplingParams(), pooling="last")
    for outputs in run(engine).values():
        lasts.append(np.frombuffer(outputs[0].embedding, np.float32))
    assert vectors["mean", 3] == pytest.approx(np.mean(lasts, axis=0), abs=1e-4)


def test_every_computed_token_of_a_prompt_is_counted_once(make_engine):
    engine = make_engine()
    for request_id, length in enumerate((1, 2, 70)):
        engine.add(request_id, PROMPT[:length], SamplingParams(max_tokens=5))
    run(engine)
    stats = engine.stats()
    assert (stats.prompt_tokens, stats.generation_tokens) == (73, 15)


def test_an_unknown_pooling_is_refused(make_engine):
    with pytest.raises(RequestError, match="pooling must be last or mean, got 'cls'") as caught:
        make_engine().add(0, PROMPT, SamplingParams(), pooling="cls")
    assert caught.value.param == "pooling"


def test_less_priority_number_is_served_earlier_and_ties_by_arrival(make_engine):
    engine = make_engine()
    for request_id, priority in enumerate([0, 5, 0, 0, 0, 5, -1, 0]):
        engine.add(request_id, PROMPT[:9], SamplingParams(max_tokens=2), priority=priority)
    firsts = []
    while engine.has_work:
        firsts += [output.request_id for output in engine.step() if output.finish_reason]
    assert firsts == [6, 0, 2, 3, 4, 7, 1, 5]


def test_who_gives_its_pages_up_is_the_least_important_and_youngest(make_engine):
    engine = make_engine(num_pages=5)
    params = SamplingParams(max_tokens=90, ignore_eos=True)
    for request_id, priority in enumerate([7, 0, 0]):
        engine.add(request_id, PROMPT[:40], params, priority=priority)
    requests = dict(engine._requests)
    run(engine)
    assert requests[0].num_preemptions and requests[2].num_preemptions
    assert not requests[1].num_preemptions
    assert requests[0].num_preemptions >= requests[2].num_preemptions
