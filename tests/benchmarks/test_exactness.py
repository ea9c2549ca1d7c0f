"""What is compared with what, on a tiny model."""

from collections.abc import Iterator

import pytest

from benchmarks.exactness import compare_answers, compare_captures, in_batches
from benchmarks.make_gguf import write_gguf
from ggjax import LLM, RequestOutput
from runtime.outputs import CompletionOutput, Logprob

OPTIONS = {"max_model_len": 128, "max_num_seqs": 1, "max_num_batched_tokens": 128}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_gguf(tmp_path_factory.mktemp("exact") / "tiny.gguf"))


@pytest.fixture(scope="module")
def llm(path: str) -> Iterator[LLM]:
    with LLM(path, dtype="float32", **OPTIONS) as llm:
        yield llm


def test_every_kind_of_site_is_compared(llm: LLM) -> None:
    worst = compare_captures(llm, [[5, 9, 900], [7] * 70], patterns=False)
    assert len(worst) == 1 + 12 + 2 and "attn.pattern" not in worst
    assert worst["embed"] == (0, 0, 0, 0)
    assert 0 < max(max(distances) for distances in worst.values()) < 2e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_with_patterns_captured_prompts_are_the_plain_forward(path: str, dtype: str) -> None:
    """To the bit, where shapes are the same; what was once an answer, too."""
    with LLM(path, dtype=dtype, **OPTIONS) as llm:
        worst = compare_captures(llm, [[5, 9, 900], [7] * 70], patterns=True)
    assert len(worst) == 1 + 13 + 2
    for kind, distances in worst.items():
        assert distances.padded == distances.again == 0, kind


def test_answers_alone_are_those_in_pairs(llm: LLM) -> None:
    prompts = [[5, 9], [7] * 30, [8]]
    alone, pairs = (in_batches(llm, prompts, size) for size in (1, 2))
    assert [output.prompt_token_ids for output in pairs] == prompts
    answers, tokens, change = compare_answers(alone, pairs)
    assert (answers, tokens) == (0, 0) and change < 1e-4


def scored(*tokens: tuple[int, float]) -> RequestOutput:
    ids = [token for token, _ in tokens]
    entries = [{token: Logprob(value, None, "")} for token, value in tokens]
    return RequestOutput("", None, [], [CompletionOutput(0, "", ids, None, logprobs=entries)])


def test_scores_count_until_the_contexts_differ() -> None:
    one = scored((3, -1.0), (4, -2.0), (5, -1.0))
    other = scored((3, -1.5), (6, -9.0), (7, -9.0))
    assert compare_answers([one, one], [other, one]) == (1, 2, 0.5)
