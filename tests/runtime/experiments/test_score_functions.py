"""Functions of the caller between the scores and the choice of a token."""

import numpy as np
import pytest

from runtime.errors import RequestError
from runtime.request import SamplingParams

PROMPT = [5, 9, 900, 3, 17]


def answers(outputs):
    return [output.outputs[0].token_ids for output in outputs]


def test_a_processor_reaches_its_requests_alone(llm):
    params = SamplingParams(temperature=1.0, seed=3, max_tokens=30, ignore_eos=True)
    plain = answers(llm.generate([PROMPT, PROMPT], params))
    odd, other = answers(llm.generate([PROMPT, PROMPT], params, logits_processors=[["ban"], []]))
    assert all(token % 2 for token in odd)
    assert plain == [other, other] and not all(token % 2 for token in other)


def test_a_processor_remembers_and_sees_the_last_token(llm):
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    prompts = [PROMPT, [400]]
    climbing = answers(llm.generate(prompts, params, logits_processors=["climb"]))
    steps = np.cumsum(range(6))
    assert climbing == [(17 + steps).tolist(), (400 + steps).tolist()]


def test_processors_run_in_their_order(llm):
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    even = [[400]]
    with_both = llm.generate(even, params, logits_processors=["climb", "ban"])[0].outputs[0]
    assert with_both.finish_reason == "error", "the first leaves 400 alone, the second takes it"
    assert answers(llm.generate(even, params, logits_processors=["climb"])) == [[400]]


def test_a_sampler_chooses_with_the_key_and_the_parameters(llm, plain_forward):
    params = SamplingParams(temperature=1.0, seed=3, top_k=8, max_tokens=12, ignore_eos=True)
    first, again = (answers(llm.generate([PROMPT], params, sampler="low")) for _ in range(2))
    assert first == again
    one = SamplingParams(temperature=1.0, seed=3, top_k=1, max_tokens=12, ignore_eos=True)
    (worst,) = answers(llm.generate([PROMPT], one, sampler="low"))
    logits, _ = plain_forward(llm, PROMPT + worst[:-1])
    assert worst == logits[len(PROMPT) - 1 :].argmin(axis=-1).tolist()
    assert first != [worst]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"logits_processors": "nobody"}, "no 'nobody': registered are ban, climb"),
        ({"logits_processors": ["nobody"]}, "no 'nobody': registered are ban, climb"),
        ({"sampler": "nobody"}, "samplers has no 'nobody': registered are low"),
        ({"logits_processors": [["ban"], []]}, "2 lists of logits_processors for 1 prompts"),
    ],
)
def test_names_that_were_not_registered_are_refused(llm, names, message):
    with pytest.raises(RequestError, match=message):
        llm.generate([PROMPT], **names)
