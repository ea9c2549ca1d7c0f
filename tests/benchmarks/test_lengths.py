"""Lengths of synthetic requests, and those of a ShareGPT file."""

import argparse
import json

import numpy as np
import pytest

from benchmarks.arrivals import arrival_offsets
from benchmarks.lengths import (
    LONGEST_PROMPT,
    LONGEST_TOTAL,
    SHAREGPT_ANSWER_MEAN,
    SHAREGPT_PROMPT_MEAN,
    SHORTEST,
    random_samples,
    sharegpt_like_samples,
    sharegpt_samples,
)
from benchmarks.samples import make_samples


def rng():
    return np.random.default_rng(0)


def random(count=200, input_len=10, output_len=20, range_ratio=0.5):
    return random_samples(
        count,
        input_len=input_len,
        output_len=output_len,
        range_ratio=range_ratio,
        vocab_size=50,
        rng=rng(),
    )


def test_random_lengths_fill_their_range():
    samples = random()
    assert {s.prompt_len for s in samples} == set(range(5, 16))
    assert {s.output_len for s in samples} == set(range(10, 31))
    assert all(len(s.prompt) == s.prompt_len and max(s.prompt) < 50 for s in samples)


def test_without_a_range_lengths_are_exact():
    assert {(s.prompt_len, s.output_len) for s in random(range_ratio=0)} == {(10, 20)}


def test_the_same_seed_gives_the_same_requests():
    assert random() == random()


@pytest.mark.parametrize(
    "wrong", [{"input_len": 0}, {"output_len": 0}, {"range_ratio": 1.0}, {"range_ratio": -0.1}]
)
def test_random_refuses_what_it_cannot_draw(wrong):
    with pytest.raises(ValueError, match="must"):
        random(**wrong)


def test_lengths_like_sharegpts_have_its_means():
    samples = sharegpt_like_samples(4000, vocab_size=10, rng=rng())
    prompts = np.array([s.prompt_len for s in samples])
    answers = np.array([s.output_len for s in samples])
    assert prompts.mean() == pytest.approx(SHAREGPT_PROMPT_MEAN, rel=0.05)
    assert answers.mean() == pytest.approx(SHAREGPT_ANSWER_MEAN, rel=0.05)
    assert prompts.min() >= SHORTEST and prompts.max() <= LONGEST_PROMPT
    assert (prompts + answers).max() <= LONGEST_TOTAL
    assert np.median(prompts) < prompts.mean()  # a long tail


def words(texts):
    return [text.split() for text in texts]


@pytest.fixture
def sharegpt(tmp_path):
    turns = [("a b c d e", "f g h i"), ("short", "f g h i"), ("x " * 2000, "f g h i")]
    entries = [{"conversations": [{"value": q}, {"value": a}]} for q, a in turns]
    path = tmp_path / "sharegpt.json"
    path.write_text(json.dumps([*entries, {"conversations": []}]))
    return path


def test_sharegpt_keeps_the_conversations_that_fit(sharegpt):
    (sample,) = sharegpt_samples(sharegpt, 1, output_len=None, tokenize=words, rng=rng())
    assert (sample.prompt, sample.prompt_len, sample.output_len) == ("a b c d e", 5, 4)
    (sample,) = sharegpt_samples(sharegpt, 1, output_len=9, tokenize=words, rng=rng())
    assert sample.output_len == 9


def test_too_few_conversations_are_refused(sharegpt):
    with pytest.raises(ValueError, match="1 conversations that fit, not 2"):
        sharegpt_samples(sharegpt, 2, output_len=None, tokenize=words, rng=rng())


@pytest.mark.parametrize("text", ["nonsense", "[1]", '[{"conversations": [{}, {}]}]'])
def test_a_file_that_is_not_sharegpts_is_refused(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="no ShareGPT file"):
        sharegpt_samples(path, 1, output_len=None, tokenize=words, rng=rng())


def options(**given):
    values = {"dataset_name": "random", "dataset_path": None, "sharegpt_output_len": None}
    lengths = {"random_input_len": 4, "random_output_len": 2, "random_range_ratio": 0.0}
    return argparse.Namespace(**{"seed": 0, **values, **lengths, **given})


def test_the_name_of_a_dataset_chooses_it(sharegpt):
    def make(**given):
        return make_samples(options(**given), 1, vocab_size=9, tokenize=words)[0]

    assert make().prompt_len == 4
    assert make(dataset_name="sharegpt", dataset_path=sharegpt).prompt_len == 5
    assert make(dataset_name="sharegpt-like").prompt_len >= SHORTEST


@pytest.mark.parametrize(
    ("given", "count", "message"),
    [({}, 0, "num-prompts"), ({"dataset_name": "sharegpt"}, 1, "dataset-path")],
)
def test_wrong_datasets_are_refused(given, count, message):
    with pytest.raises(ValueError, match=message):
        make_samples(options(**given), count, vocab_size=9, tokenize=words)


def test_requests_come_at_their_rate():
    offsets = arrival_offsets(4000, rate=10, burstiness=1, seed=0)
    assert offsets == sorted(offsets) and offsets[-1] == pytest.approx(400, rel=0.1)
    assert arrival_offsets(3, rate=float("inf"), burstiness=1, seed=0) == [0, 0, 0]


def test_bursts_vary_more_and_are_as_many():
    def intervals(burstiness):
        return np.diff(arrival_offsets(4000, rate=10, burstiness=burstiness, seed=0))

    assert intervals(0.1).std() > 2 * intervals(1).std() > 4 * intervals(100).std()
    assert intervals(0.1).mean() == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(("rate", "burstiness"), [(0, 1), (1, 0)])
def test_rates_are_positive(rate, burstiness):
    with pytest.raises(ValueError, match="must be positive"):
        arrival_offsets(1, rate=rate, burstiness=burstiness, seed=0)
