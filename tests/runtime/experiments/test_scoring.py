"""Scores of continuations are the log-probabilities that generating them reports."""

import jax
import numpy as np
import pytest

from runtime.errors import RequestError
from runtime.request import SamplingParams

PROMPT = [(7 * i) % 1000 for i in range(150)]


def test_a_generated_answer_scores_what_it_reported(llm):
    params = SamplingParams(temperature=1.0, seed=1, max_tokens=6, logprobs=0, ignore_eos=True)
    (output,) = llm.generate([[5, 9, 900]], params)
    answer = output.outputs[0]
    (score,) = llm.score([5, 9, 900], [answer.token_ids])
    reported = [e[t].logprob for e, t in zip(answer.logprobs, answer.token_ids, strict=True)]
    assert score.logprobs == pytest.approx(reported, abs=1e-4)
    assert score.total == pytest.approx(answer.cumulative_logprob, abs=1e-3)


@pytest.fixture(scope="module")
def logprobs(llm):
    """Every token's next, by the pure function, of up to 224 tokens."""
    run = jax.jit(lambda tokens: jax.nn.log_softmax(llm.model.forward(llm.params, tokens)[0]))
    return lambda tokens: run(np.pad(tokens, (0, 224 - len(tokens))))


@pytest.mark.parametrize("num_prompt", [1, 64, 65, 150])
def test_scores_are_those_of_the_pure_function(llm, logprobs, num_prompt):
    prompt = [num_prompt, *PROMPT[1:num_prompt]]  # nobody had it before
    continuations = [[3], [900, 17, 4], PROMPT[:70]]
    hits = llm.engine.scheduler.pages.prefix_hits
    scores = llm.score(prompt, continuations)
    for token_ids, score in zip(continuations, scores, strict=True):
        every = logprobs(prompt + token_ids)[num_prompt - 1 :]
        expected = [every[i, token] for i, token in enumerate(token_ids)]
        assert score.token_ids == token_ids
        np.testing.assert_allclose(score.logprobs, expected, atol=1e-4)
    # two of three find the full pages before the token that scores the first of theirs
    shared = llm.engine.scheduler.pages.prefix_hits - hits
    assert shared == 2 * ((num_prompt - 1) // 64 * 64)


def test_texts_are_continued_as_they_stand(llm):
    text, ids = llm.score("def f", ["(x)", llm.tokenize("(x)")])
    assert text == ids


def test_nothing_to_score_is_refused(llm):
    assert llm.score("def f", []) == []
    for continuations in ("(x)", 5):
        with pytest.raises(RequestError, match="a list of texts or of lists of ids, got"):
            llm.score("def f", continuations)
    for prompt, continuations in (("def f", [5, 6]), ("def f", [[1.5]]), (5, ["(x)"])):
        with pytest.raises(RequestError, match="are texts or lists of token ids, got"):
            llm.score(prompt, continuations)
    with pytest.raises(RequestError, match="need a token each"):
        llm.score("def f", [""])
    with pytest.raises(RequestError, match="have 512 tokens, the model's limit is 512, of which"):
        llm.score([1] * 500, [[2] * 12])
    assert len(llm.score([1] * 500, [[2] * 11])[0].logprobs) == 11


def test_a_request_without_scores_is_an_error(llm, monkeypatch):
    step = llm.engine.step

    def abort_and_step():
        llm.abort()
        return step()

    monkeypatch.setattr(llm.engine, "step", abort_and_step)
    with pytest.raises(RequestError, match="was aborted"):
        llm.score("def f", ["(x)"])
