"""What of an answer's last token is text."""

import pytest

from runtime.request import SamplingParams, TokenOutput
from runtime.text.answer import Answer
from runtime.text.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("last", "params", "text"),
    [
        ("<|im_end|>", SamplingParams(), "hello"),
        ("<|im_end|>", SamplingParams(skip_special_tokens=False), "hello"),
        (
            "<|im_end|>",
            SamplingParams(include_stop_str_in_output=True, skip_special_tokens=False),
            "hello<|im_end|>",
        ),
        ("ll", SamplingParams(), "helloll"),  # a guide says that nothing can follow
    ],
)
def test_the_last_token_is_text_unless_it_is_one_that_ends_answers(
    small: Tokenizer, last: str, params: SamplingParams, text: str
) -> None:
    (hello,) = small.encode("hello", parse_special=False)
    (end,) = small.encode(last, parse_special=True)
    answer = Answer(0, small, params, start=True)
    piece = answer.push([TokenOutput(1, hello), TokenOutput(1, end, finish_reason="stop")])
    assert (piece.text, piece.finish_reason) == (text, "stop")


def test_a_token_that_the_caller_ends_answers_with_is_no_text(small: Tokenizer) -> None:
    (hello,) = small.encode("hello", parse_special=False)
    params = SamplingParams(stop_token_ids=(hello,))
    piece = Answer(0, small, params, start=True).push([TokenOutput(1, hello, finish_reason="stop")])
    assert (piece.text, piece.stop_reason) == ("", hello)
