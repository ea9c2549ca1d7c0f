"""What a caller may ask for; each mistake names its field."""

import pytest

from runtime.engine_request import Request
from runtime.errors import PromptTooLong, RequestError, UnsupportedParameter
from runtime.request import SamplingParams, answer_room
from runtime.structured_outputs import StructuredOutputs

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("n", (1, 128)),
        ("temperature", (0.0, 0, 100.0)),
        ("top_p", (1e-6, 1.0)),
        ("top_k", (-1, 0, 1, 2**31 - 1)),
        ("min_p", (0.0, 1.0)),
        ("seed", (None, 0, -(2**63), 2**63 - 1)),
        ("repetition_penalty", (0.01, 100.0)),
        ("presence_penalty", (-2.0, 2.0)),
        ("frequency_penalty", (-2.0, 2.0)),
        ("max_tokens", (None, 1)),
        ("min_tokens", (0, 16)),
        ("logprobs", (None, 0, 20)),
        ("prompt_logprobs", (None, 0, 20)),
    ],
)
def test_the_ends_of_every_range_are_allowed(field, values):
    for value in values:
        assert getattr(SamplingParams(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n", 0, "n must lie in [1, 128], got 0"),
        ("n", 129, "n must lie in [1, 128], got 129"),
        ("temperature", -0.1, "temperature must lie in [0.0, 100.0], got -0.1"),
        ("temperature", NAN, "temperature must be finite, got nan"),
        ("temperature", INF, "temperature must be finite, got inf"),
        ("top_p", 0.0, "top_p must lie in (0, 1], got 0.0"),
        ("top_p", 1.1, "top_p must lie in (0, 1], got 1.1"),
        ("top_p", NAN, "top_p must be finite, got nan"),
        ("top_k", -2, "top_k must lie in [-1, 2147483647], got -2"),
        ("top_k", 2**31, "top_k must lie in [-1, 2147483647], got 2147483648"),
        ("min_p", -0.1, "min_p must lie in [0.0, 1.0], got -0.1"),
        ("min_p", NAN, "min_p must be finite, got nan"),
        ("seed", 2**63, "seed must fit 64 bits, got 9223372036854775808"),
        ("seed", -(2**63) - 1, "seed must fit 64 bits, got -9223372036854775809"),
        ("repetition_penalty", 0.0, "repetition_penalty must lie in (0, 100], got 0.0"),
        ("repetition_penalty", 101.0, "repetition_penalty must lie in (0, 100], got 101.0"),
        ("repetition_penalty", -INF, "repetition_penalty must be finite, got -inf"),
        ("presence_penalty", 2.1, "presence_penalty must lie in [-2.0, 2.0], got 2.1"),
        ("presence_penalty", NAN, "presence_penalty must be finite, got nan"),
        ("frequency_penalty", -2.1, "frequency_penalty must lie in [-2.0, 2.0], got -2.1"),
        ("frequency_penalty", INF, "frequency_penalty must be finite, got inf"),
        ("max_tokens", 0, "max_tokens must lie in [1, 2147483647], got 0"),
        ("max_tokens", 2**31, "max_tokens must lie in [1, 2147483647], got 2147483648"),
        ("min_tokens", -1, "min_tokens must lie in [0, 2147483647], got -1"),
        ("prompt_logprobs", -1, "prompt_logprobs must lie in [0, 20], got -1"),
        ("prompt_logprobs", 21, "prompt_logprobs must lie in [0, 20], got 21"),
        ("min_tokens", 17, "min_tokens (17) exceeds max_tokens (16)"),
        ("logprobs", -1, "logprobs must lie in [0, 20], got -1"),
        ("logprobs", 21, "logprobs must lie in [0, 20], got 21"),
        ("stop", ["x"] * 17, "at most 16 stop strings, got 17"),
        ("stop", [""], "each stop string needs 1 to 1024 characters"),
        ("stop", ["x" * 1025], "each stop string needs 1 to 1024 characters"),
        ("stop", [3], "each stop string needs 1 to 1024 characters"),
        ("stop_token_ids", range(33), "at most 32 stop_token_ids, got 33"),
        (
            "logit_bias",
            dict.fromkeys(range(301), 0.0),
            "at most 300 entries in logit_bias, got 301",
        ),
        ("logit_bias", {7: 100.5}, "logit_bias of token 7 must lie in [-100, 100], got 100.5"),
        ("logit_bias", {7: NAN}, "logit_bias of token 7 must lie in [-100, 100], got nan"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(field, value, message):
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{field: value})
    assert str(caught.value) == message
    assert (caught.value.param, caught.value.code) == (field, "invalid_value")


def test_one_stop_string_may_come_bare():
    assert SamplingParams(stop="end").stop == ("end",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")
    assert SamplingParams(stop=None, stop_token_ids=None, logit_bias=None).stop == ()


def test_as_many_entries_as_allowed_are_kept():
    params = SamplingParams(
        stop=["x" * 1024] * 16,
        stop_token_ids=list(range(32)),
        logit_bias=dict.fromkeys(range(300), -100.0),
    )
    assert (len(params.stop), len(params.stop_token_ids), len(params.logit_bias)) == (16, 32, 300)


def test_the_callers_bias_is_copied():
    bias = {1: 2.0}
    params = SamplingParams(logit_bias=bias)
    bias[2] = 1000.0
    assert params.logit_bias == {1: 2.0}


@pytest.mark.parametrize(
    ("changes", "has"),
    [
        ({}, False),
        ({"logit_bias": {1: 2.0}, "temperature": 0.5}, False),
        ({"repetition_penalty": 1.1}, True),
        ({"presence_penalty": -0.1}, True),
        ({"frequency_penalty": 0.1}, True),
    ],
)
def test_penalties_are_noticed(changes, has):
    assert SamplingParams(**changes).has_penalties == has


def test_a_form_decides_itself_when_the_answer_may_end():
    with pytest.raises(RequestError, match="min_tokens cannot be combined") as caught:
        SamplingParams(min_tokens=1, structured_outputs=StructuredOutputs(regex="a+"))
    assert caught.value.param == "min_tokens"


def test_tokens_in_flight_count():
    request = Request(0, [1, 2, 3], SamplingParams(), max_tokens=4)
    assert (request.num_known, request.num_tokens, request.num_missing) == (3, 3, 3)
    request.num_computed, request.num_in_flight, request.num_tokens = 3, 1, 4
    assert (request.num_known, request.num_missing) == (3, 1)
    request.output_ids.append(9)
    request.num_in_flight = 0
    assert request.token_ids == [1, 2, 3, 9]
    assert (request.num_tokens, request.max_total_tokens) == (4, 7)


def test_requests_are_compared_by_identity():
    one, other = (Request(0, [1], SamplingParams(), max_tokens=1) for _ in range(2))
    assert one != other and len({one, other}) == 2


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "max_model_len", "kv_tokens", "room"),
    [
        (10, 5, 100, 1000, 5),
        (10, None, 100, 1000, 90),
        (10, 90, 100, 1000, 90),
        (99, None, 100, 1000, 1),
        (10, None, 1000, 100, 90),
        (10, None, 100, 100, 90),
        (1, 1, 2, 2, 1),
    ],
)
def test_an_answer_has_the_room_that_is_left(
    num_prompt, max_tokens, max_model_len, kv_tokens, room
):
    limits = {"max_model_len": max_model_len, "kv_tokens": kv_tokens}
    assert answer_room(num_prompt, max_tokens, **limits) == room


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "max_model_len", "kv_tokens", "message"),
    [
        (
            100, None, 100, 1000,
            "the prompt has 100 tokens and the model's limit is 100 tokens, "
            "of which one is for the answer",
        ),
        (
            100, 1, 1000, 64,
            "the prompt has 100 tokens and the KV pool holds 64 tokens, "
            "of which one is for the answer",
        ),
        (
            90, 11, 100, 1000,
            "the prompt has 90 tokens and max_tokens is 11, 101 together; "
            "the model's limit is 100 tokens",
        ),
        (
            90, 11, 1000, 100,
            "the prompt has 90 tokens and max_tokens is 11, 101 together; "
            "the KV pool holds 100 tokens",
        ),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_with_the_numbers(
    num_prompt, max_tokens, max_model_len, kv_tokens, message
):
    with pytest.raises(PromptTooLong) as caught:
        answer_room(num_prompt, max_tokens, max_model_len=max_model_len, kv_tokens=kv_tokens)
    assert str(caught.value) == message
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")


def test_an_empty_prompt_is_refused():
    with pytest.raises(RequestError, match="the prompt is empty") as caught:
        answer_room(0, 5, max_model_len=10, kv_tokens=10)
    assert caught.value.param == "prompt"


def test_errors_of_requests_are_of_one_kind():
    unsupported = UnsupportedParameter("best_of is not implemented", param="best_of")
    assert isinstance(unsupported, RequestError) and isinstance(unsupported, ValueError)
    assert (unsupported.param, unsupported.code) == ("best_of", "unsupported_parameter")
