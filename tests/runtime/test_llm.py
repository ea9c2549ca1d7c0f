"""The Python face on a tiny random model: what callers rely on."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.make_gguf import write_gguf
from runtime.errors import PromptTooLong, RequestError
from runtime.llm import LLM
from runtime.request import SamplingParams, TokenOutput
from tests.runtime.idle import assert_idle

PROMPTS = ["def f(x):", "a", "the quick brown fox jumps over the lazy dog " * 12]


def tokens(llm: LLM, prompts: list[str], params: SamplingParams) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in llm.generate(prompts, params)]


def test_results_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (9, 1, 5)]
    outputs = llm.generate(PROMPTS, params)
    assert [output.prompt for output in outputs] == PROMPTS
    assert [len(output.outputs[0].token_ids) for output in outputs] == [9, 1, 5]
    assert all(output.outputs[0].finish_reason == "length" for output in outputs)
    assert_idle(llm)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_request_answers_the_same_alone_and_in_a_batch(llm: LLM, temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=7, max_tokens=12, ignore_eos=True)
    together = tokens(llm, PROMPTS * 2, params)
    assert together == [tokens(llm, [prompt], params)[0] for prompt in PROMPTS] * 2


def test_choices_differ_and_a_seed_repeats_them(llm: LLM) -> None:
    params = SamplingParams(n=3, temperature=1.0, seed=1, max_tokens=16, ignore_eos=True)
    first, again = (
        [answer.token_ids for answer in llm.generate("abc", params)[0].outputs] for _ in range(2)
    )
    assert first == again
    assert len({tuple(ids) for ids in first}) == 3


def test_without_a_seed_calls_differ(llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=16, ignore_eos=True)
    assert tokens(llm, ["abc"], params) != tokens(llm, ["abc"], params)


def test_token_ids_are_a_prompt_too(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    ids = llm.tokenize(PROMPTS[0])
    assert llm.generate(ids, params)[0].outputs == llm.generate(PROMPTS[0], params)[0].outputs
    assert llm.generate([ids, PROMPTS[1]], params)[0].prompt_token_ids == ids


def test_a_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    (whole,) = llm.generate(PROMPTS[0], params)
    text = whole.outputs[0].text
    stop = text[10:13]
    stopping = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, stop=(stop,))
    (answer,) = llm.generate(PROMPTS[0], stopping)[0].outputs
    assert answer.text == text[: text.index(stop)]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", stop)
    assert_idle(llm)


def test_a_stop_token_ends_the_answer_and_is_not_shown(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    ids = tokens(llm, ["xyz"], params)[0]
    stop = next(token for i, token in enumerate(ids) if i > 2 and token not in ids[:i])
    ending = SamplingParams(temperature=0, max_tokens=20, stop_token_ids=(stop,), ignore_eos=True)
    (answer,) = llm.generate("xyz", ending)[0].outputs
    assert answer.token_ids == ids[: ids.index(stop) + 1]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", stop)
    assert answer.text == llm.detokenize(answer.token_ids[:-1])


def test_logprobs_are_those_of_the_tokens(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=5, logprobs=3, ignore_eos=True)
    (answer,) = llm.generate("hello", params)[0].outputs
    assert answer.logprobs is not None and len(answer.logprobs) == 5
    for token_id, entry in zip(answer.token_ids, answer.logprobs, strict=True):
        best = sorted((item.logprob for item in entry.values()), reverse=True)
        assert entry[token_id].logprob == best[0] <= 0
        assert entry[token_id].rank == 1
        assert 3 <= len(entry) <= 4
    total = sum(e[t].logprob for e, t in zip(answer.logprobs, answer.token_ids, strict=True))
    assert answer.cumulative_logprob == pytest.approx(total)
    assert math.isfinite(total)


def test_scores_of_the_prompt_have_vllms_shape(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=2)
    plain, scored = llm.generate(["hello there"] * 2, [SamplingParams(max_tokens=2), params])
    assert plain.prompt_logprobs is None
    assert scored.prompt_logprobs is not None and scored.prompt_logprobs[0] is None
    assert len(scored.prompt_logprobs) == len(scored.prompt_token_ids)
    for token_id, entry in zip(
        scored.prompt_token_ids[1:], scored.prompt_logprobs[1:], strict=True
    ):
        assert entry is not None and 2 <= len(entry) <= 3
        assert entry[token_id].decoded_token == llm.detokenize([token_id])
        assert {item.rank for item in entry.values()} >= {1, 2}


def test_a_token_is_decoded_not_spelled(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    ids = [*llm.tokenize(" the\n"), 0xE2]  # at last a byte that is part of a character
    (output,) = llm.generate([[1, *ids]], params)
    assert output.prompt_logprobs is not None
    entries = zip(ids, output.prompt_logprobs[1:], strict=True)
    texts = [entry[token_id].decoded_token for token_id, entry in entries if entry]
    assert "".join(texts[:-1]) == " the\n"
    assert texts[-1] == "\ufffd"


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_embeddings_do_not_depend_on_the_batch(llm: LLM, pooling: str) -> None:
    together = llm.embed(PROMPTS, pooling=pooling)
    for prompt, output in zip(PROMPTS, together, strict=True):
        (alone,) = llm.embed(llm.tokenize(prompt), pooling=pooling)
        assert output.prompt == prompt and alone.prompt is None
        assert alone.embedding == pytest.approx(output.embedding, abs=1e-4)
        assert math.hypot(*output.embedding) == pytest.approx(1, abs=1e-5)
    (raw,) = llm.embed(PROMPTS[0], pooling=pooling, normalize=False)
    length = math.hypot(*raw.embedding)
    assert length > 2
    scaled = [value / length for value in raw.embedding]
    assert scaled == pytest.approx(together[0].embedding, abs=1e-4)
    assert_idle(llm)


def test_prompts_without_embeddings_leave_nothing(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="600 tokens"):
        llm.embed(["fine", [5] * 600])  # type: ignore[list-item]
    assert_idle(llm)
    broken = TokenOutput(0, None, finish_reason="error", error="not finite")
    step = llm.engine.step
    monkeypatch.setattr(
        llm.engine,
        "step",
        lambda: [msgspec.structs.replace(broken, request_id=o.request_id) for o in step()],
    )
    with pytest.raises(RequestError, match="not finite"):
        llm.embed("a")
    assert_idle(llm)


def test_what_cannot_be_started_is_refused() -> None:
    with pytest.raises(ValueError, match="max_model_len"):
        LLM("demo", max_model_len=10_000_000)
    with pytest.raises(ValueError, match="processors and samplers are functions, got 3"):
        LLM("demo", logits_processors={"x": 3})  # type: ignore[dict-item]


def test_it_is_closed_once(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", size="tiny")
    # as the model of the other tests, whose programs are read
    options: dict[str, Any] = {"max_model_len": 512, "max_num_seqs": 4}
    with LLM(str(path), dtype="float32", max_num_batched_tokens=128, **options) as llm:
        llm.close()
    llm.close()


@pytest.mark.parametrize("prompt", [5, 1.5, [1.5], [[1, "a"]], [None], {"prompt_token_ids": "ab"}])
def test_what_is_no_prompt_is_named(llm: LLM, prompt: Any) -> None:
    for run in (llm.generate, llm.embed, llm.snapshot):
        with pytest.raises(RequestError, match="prompts are texts or lists of token ids, got"):
            run(prompt)
    assert_idle(llm)


def test_a_repeated_prompt_is_found_in_the_prefix_cache(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
    prompt = llm.tokenize("a prompt that nobody had before " * 20)[:200]
    (first,), (second,) = llm.generate(prompt, params), llm.generate(prompt, params)
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 192)
    assert first.outputs[0].token_ids == second.outputs[0].token_ids


def test_a_chat_is_rendered_by_the_template_of_the_file(llm: LLM) -> None:
    chat = [{"role": "user", "content": "hi"}]
    (output,) = llm.chat(chat, SamplingParams(max_tokens=3, temperature=0))
    assert "<|im_start|>user\nhi<|im_end|>" in output.prompt
    two = llm.chat([chat, chat], SamplingParams(max_tokens=3, temperature=0))
    assert [o.outputs[0].token_ids for o in two] == [output.outputs[0].token_ids] * 2


def test_penalties_and_biases_change_the_choice(llm: LLM) -> None:
    plain = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    best = tokens(llm, ["q"], plain)[0]
    banned = SamplingParams(
        temperature=0, max_tokens=8, ignore_eos=True, logit_bias={t: -100.0 for t in set(best)}
    )
    assert not set(tokens(llm, ["q"], banned)[0]) & set(best)
    forced = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, logit_bias={65: 100.0})
    assert tokens(llm, ["q"], forced)[0] == [65] * 3
    penalised = SamplingParams(
        temperature=0, max_tokens=8, ignore_eos=True, logit_bias={65: 3.0}, frequency_penalty=2.0
    )
    assert tokens(llm, ["q"], penalised)[0] != [65] * 8


def test_min_tokens_keeps_an_answer_from_ending(llm: LLM) -> None:
    ends = sorted(llm._tokenizer.stop_ids)[0]
    eager = SamplingParams(temperature=0, max_tokens=9, logit_bias={ends: 100.0})
    assert tokens(llm, ["z"], eager)[0] == [ends]
    patient = SamplingParams(temperature=0, max_tokens=9, logit_bias={ends: 100.0}, min_tokens=4)
    answer = tokens(llm, ["z"], patient)[0]
    assert len(answer) == 5 and answer[-1] == ends and ends not in answer[:-1]


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([5] * 600, SamplingParams(), "the prompt has 600 tokens and the model's limit is 512"),
        ([5] * 500, SamplingParams(max_tokens=50), "550 together; the model's limit is 512"),
        ([1, 99999], SamplingParams(), "token id 99999 is not in the vocabulary"),
        ([1], SamplingParams(stop_token_ids=(99999,)), "99999"),
        ([1], SamplingParams(logit_bias={99999: 1.0}), "99999"),
        ("", SamplingParams(), "the prompt is empty"),
    ],
)
def test_what_cannot_be_served_is_refused_and_leaves_nothing(
    llm: LLM, prompt: str | list[int], params: SamplingParams, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        llm.generate(["fine", prompt], params)  # type: ignore[list-item]
    assert_idle(llm)


def test_a_prompt_that_is_too_long_has_its_own_error(llm: LLM) -> None:
    with pytest.raises(PromptTooLong):
        llm.generate([[5] * 600])


def test_as_many_parameters_as_prompts_are_needed(llm: LLM) -> None:
    with pytest.raises(RequestError, match="1 sampling parameters for 2 prompts"):
        llm.generate(["a", "b"], [SamplingParams()])


def test_more_requests_than_slots_all_end(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    outputs = llm.generate([[i + 1] * (i + 1) for i in range(11)], params)
    assert [len(o.outputs[0].token_ids) for o in outputs] == [6] * 11
    assert_idle(llm)


def test_asking_for_log_probabilities_changes_no_answer(llm: LLM) -> None:
    plain = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    asking = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=1)
    assert tokens(llm, PROMPTS, plain) == tokens(llm, PROMPTS, asking)
    # both kinds in one batch
    assert tokens(llm, PROMPTS[:2], [plain, asking]) == tokens(llm, PROMPTS[:2], plain)  # type: ignore[arg-type]


def test_vllms_dictionaries_are_prompts(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    ids = llm.tokenize(PROMPTS[0])
    listed = [{"prompt": PROMPTS[0]}, {"prompt_token_ids": ids}, PROMPTS[0]]
    answers = [output.outputs[0].token_ids for output in llm.generate(listed, params)]
    assert answers[0] == answers[1] == answers[2]
    assert llm.generate({"prompt": PROMPTS[0]}, params)[0].prompt == PROMPTS[0]
    with pytest.raises(RequestError, match="either 'prompt' or 'prompt_token_ids', got 'text'"):
        llm.generate({"text": "a"}, params)  # type: ignore[arg-type]
