"""Scores of continuations are the log-probabilities that generating them reports."""

import pytest

from runtime.errors import RequestError
from runtime.request import SamplingParams


def test_a_generated_answer_scores_what_it_reported(llm):
    params = SamplingParams(temperature=1.0, seed=1, max_tokens=6, logprobs=0, ignore_eos=True)
    (output,) = llm.generate([[5, 9, 900]], params)
    answer = output.outputs[0]
    (score,) = llm.score([5, 9, 900], [answer.token_ids])
    reported = [e[t].logprob for e, t in zip(answer.logprobs, answer.token_ids, strict=True)]
    assert score.logprobs == pytest.approx(reported, abs=1e-4)
    assert score.total == pytest.approx(answer.cumulative_logprob, abs=1e-3)


def test_texts_are_continued_as_they_stand(llm):
    text, ids = llm.score("def f", ["(x)", llm.tokenize("(x)")])
    assert text == ids


def test_nothing_to_score_is_refused(llm):
    with pytest.raises(RequestError, match="need a token each"):
        llm.score("def f", [""])
    with pytest.raises(RequestError, match="have 520 tokens, the model's limit is 512"):
        llm.score([1] * 500, [[2] * 20])
