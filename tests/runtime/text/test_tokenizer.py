"""Ids equal to llama.cpp's, any text comes back, special tokens have their roles."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.text.pretokenizers import PRETOKENIZERS
from runtime.text.special_tokens import FimTokens, TokenSplitter
from runtime.text.tokenizer import Tokenizer, build_tokenizer

FIM_NAMES = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]


@pytest.mark.parametrize(("key", "parse_special"), [("ids_special", True), ("ids_plain", False)])
def test_ids_equal_llama_cpp(real: Tokenizer, goldens: Path, key: str, parse_special: bool) -> None:
    cases = json.loads((goldens / "tokenize.json").read_text())["cases"]
    ids = {case["name"]: real.encode(case["text"], parse_special=parse_special) for case in cases}
    assert ids == {case["name"]: case[key] for case in cases}


def test_decode_inverts_encode_on_the_reference_texts(real: Tokenizer, goldens: Path) -> None:
    for case in json.loads((goldens / "tokenize.json").read_text())["cases"]:
        assert real.decode(case["ids_special"], skip_special=False) == case["text"]
        assert real.decode(case["ids_plain"]) == case["text"]


def test_the_real_vocabulary_knows_its_special_tokens(real: Tokenizer) -> None:
    stops = {real.token_text(i) for i in real.stop_ids}
    assert stops == {
        *("<|im_end|>", "<|endoftext|>", "</s>"),
        *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
    }
    assert real.fim == FimTokens(151659, 151661, 151660, 151662, 151663, 151664)
    assert (real.bos_id, real.eos_id, real.pad_id) == (151643, 151645, 151643)
    assert real.prefix_ids == ()
    assert real.vocab_size == 151936


@given(text=st.text())
def test_any_text_comes_back(small: Tokenizer, text: str) -> None:
    assert small.decode(small.encode(text, parse_special=False), skip_special=False) == text


@given(text=st.text())
def test_any_text_comes_back_from_sentencepiece(small_spm: Tokenizer, text: str) -> None:
    # SentencePiece writes a space and its own sign for one alike.
    expected = text.replace("▁", " ")
    assert small_spm.decode(small_spm.encode(text, parse_special=False)) == expected


def test_merges_are_applied(small: Tokenizer) -> None:
    ids = small.encode("hello hello", parse_special=False)
    assert [small.token_text(i) for i in ids] == ["hello", "Ġhello"]


@pytest.mark.parametrize("text", ["<|im_end|>", "</s>", "<|box|>"])
def test_control_tokens_are_parsed_only_on_request(small: Tokenizer, text: str) -> None:
    (token,) = small.encode(text, parse_special=True)
    assert small.is_control(token)
    assert small.token_text(token) == text
    assert small.token_bytes(token) == text.encode()
    plain = small.encode(text, parse_special=False)
    assert len(plain) > 1 and not any(map(small.is_control, plain))


@pytest.mark.parametrize("parse_special", [True, False])
def test_user_defined_tokens_are_always_recognised(small: Tokenizer, parse_special: bool) -> None:
    ids = small.encode("a<think>b", parse_special=parse_special)
    assert [small.token_text(i) for i in ids] == ["a", "<think>", "b"]
    assert small.decode(ids) == "a<think>b"


def test_control_tokens_are_left_out_of_decoded_text(small: Tokenizer) -> None:
    ids = small.encode("a<|im_end|>b", parse_special=True)
    assert small.decode(ids) == "ab"
    assert small.decode(ids, skip_special=False) == "a<|im_end|>b"


def test_an_unused_token_has_no_bytes(small: Tokenizer) -> None:
    ids = {small.token_text(i): i for i in range(small.vocab_size)}
    assert small.token_bytes(ids["[PAD1]"]) == b""


def test_a_normal_token_outside_the_byte_alphabet_is_its_text(bpe_metadata: Any) -> None:
    metadata = bpe_metadata()
    tokens = [*metadata["tokenizer.ggml.tokens"], "日本"]
    types = [*metadata["tokenizer.ggml.token_type"], 1]
    tokenizer = build_tokenizer(bpe_metadata(tokens=tokens, token_type=types))
    assert tokenizer.token_bytes(len(tokens) - 1) == "日本".encode()


def test_a_merge_cannot_spell_a_control_token(bpe_metadata: Any) -> None:
    tokens = [*bpe_metadata()["tokenizer.ggml.tokens"], "</"]
    types = [*bpe_metadata()["tokenizer.ggml.token_type"], 1]
    merges = ["< /", "</ s>"]
    tokens[tokens.index("[PAD1]")] = "s>"
    merges.insert(0, "s >")
    tokenizer = build_tokenizer(
        bpe_metadata(tokens=tokens, token_type=types, merges=merges, pre="gpt-2")
    )
    ids = tokenizer.encode("</s>", parse_special=False)
    assert not any(map(tokenizer.is_control, ids))


def test_a_whole_word_cannot_spell_a_control_token(bpe_metadata: Any) -> None:
    metadata = bpe_metadata(pre="llama-bpe", bos_token_id=0)
    tokens = [*metadata["tokenizer.ggml.tokens"], "word"]
    types = [*metadata["tokenizer.ggml.token_type"], 3]
    tokenizer = build_tokenizer(
        bpe_metadata(pre="llama-bpe", bos_token_id=0, tokens=tokens, token_type=types)
    )
    assert len(tokenizer.encode("word", parse_special=False)) == 4
    assert tokenizer.encode("word", parse_special=True) == [len(tokens) - 1]


def test_the_longest_token_wins_where_two_begin_together() -> None:
    splitter = TokenSplitter({"<a>": 7, "<a><b>": 8, "?": 9})
    assert list(splitter.split("x<a><b><a>y?")) == ["x", 8, 7, "y", 9]
    assert list(splitter.split("")) == []
    assert list(TokenSplitter({}).split("ab")) == ["ab"]
    assert list(TokenSplitter({}).split("")) == []


@given(text=st.text(alphabet="<a|>", max_size=30))
def test_the_leftmost_token_wins(text: str) -> None:
    tokens = {"<a>": 1, "a>": 2, "<a|": 3, "|>": 4, "><": 5, "<a><": 6}
    expected: list[str | int] = []
    while text_left := text[sum(map(len, _texts(expected, tokens))) :]:
        names = [name for name in tokens if text_left.startswith(name)]
        if names:
            expected.append(tokens[max(names, key=len)])
        elif expected and isinstance(expected[-1], str):
            expected[-1] += text_left[0]
        else:
            expected.append(text_left[0])
    assert list(TokenSplitter(tokens).split(text)) == expected


def _texts(parts: list[str | int], tokens: dict[str, int]) -> list[str]:
    names = {number: name for name, number in tokens.items()}
    return [part if isinstance(part, str) else names[part] for part in parts]


def test_families_differ_in_digits(bpe_metadata: Any) -> None:
    metadata = bpe_metadata()
    tokens = [*metadata["tokenizer.ggml.tokens"], "12"]
    types = [*metadata["tokenizer.ggml.token_type"], 1]
    lengths = {}
    for pre in ("qwen2", "llama-bpe", "gpt-2", "smollm", "gpt-4o", "tekken", "default"):
        tokenizer = build_tokenizer(
            bpe_metadata(pre=pre, tokens=tokens, token_type=types, merges=["1 2"], bos_token_id=0)
        )
        lengths[pre] = len(tokenizer.encode("12", parse_special=False))
    assert lengths == {
        **{"qwen2": 2, "smollm": 2, "tekken": 2},
        **{"llama-bpe": 1, "gpt-2": 1, "gpt-4o": 1, "default": 1},
    }


@pytest.mark.parametrize("pre", sorted(PRETOKENIZERS))
@settings(max_examples=20)
@given(text=st.text())
def test_every_pretokenizer_keeps_the_text(bpe_metadata: Any, pre: str, text: str) -> None:
    tokenizer = build_tokenizer(bpe_metadata(pre=pre, bos_token_id=0))
    for sample in (text, "Don't\r\n  x  1234 你好, ÉTÉ été! "):
        assert tokenizer.decode(tokenizer.encode(sample, parse_special=False)) == sample


def test_prefix_ids_follow_the_metadata_then_the_family(
    bpe_metadata: Any, spm_metadata: Any
) -> None:
    def prefix(metadata: dict[str, Any]) -> tuple[int, ...]:
        return build_tokenizer(metadata).prefix_ids

    assert prefix(bpe_metadata(bos_token_id=5)) == ()
    assert prefix(bpe_metadata(bos_token_id=5, add_bos_token=True)) == (5,)
    assert prefix(bpe_metadata(bos_token_id=5, pre="llama-bpe")) == (5,)
    assert prefix(bpe_metadata(bos_token_id=5, pre="llama-bpe", add_bos_token=False)) == ()
    assert prefix(spm_metadata()) == (1,)
    assert prefix(spm_metadata(add_bos_token=False)) == ()


def test_fim_tokens_come_from_keys_before_names(bpe_metadata: Any) -> None:
    tokens = [*bpe_metadata()["tokenizer.ggml.tokens"], *FIM_NAMES]
    types = [*bpe_metadata()["tokenizer.ggml.token_type"], 1, 1, 1]
    last = len(tokens) - 1
    by_name = build_tokenizer(bpe_metadata(tokens=tokens, token_type=types))
    assert by_name.fim == FimTokens(last - 2, last - 1, last, None, None, None)
    assert by_name.is_control(last)
    by_key = build_tokenizer(bpe_metadata(tokens=tokens, token_type=types, fim_mid_token_id=3))
    assert by_key.fim == FimTokens(last - 2, last - 1, 3, None, None, None)


def test_end_ids_from_keys_stop_a_generation(bpe_metadata: Any) -> None:
    tokenizer = build_tokenizer(bpe_metadata(eot_token_id=1, eom_token_id=2, fim_pad_token_id=3))
    assert {1, 2, 3, tokenizer.eos_id} <= tokenizer.stop_ids
    assert tokenizer.fim is None


def test_sentencepiece_adds_and_strips_one_space(small_spm: Tokenizer) -> None:
    ids = small_spm.encode("hello hello", parse_special=False)
    assert [small_spm.token_text(i) for i in ids] == ["▁hello", "▁hello"]
    assert small_spm.decode(ids) == "hello hello"
    assert small_spm.decode(ids, start=False) == " hello hello"
    assert small_spm.decode(small_spm.encode("  x", parse_special=False)) == "  x"


def test_sentencepiece_falls_back_to_bytes(small_spm: Tokenizer) -> None:
    ids = small_spm.encode("é", parse_special=False)
    assert [small_spm.token_text(i) for i in ids] == ["▁", "<0xC3>", "<0xA9>"]
    assert [small_spm.token_bytes(i) for i in ids] == [b" ", b"\xc3", b"\xa9"]


def test_sentencepiece_parses_control_tokens_only_on_request(small_spm: Tokenizer) -> None:
    assert small_spm.encode("<s><unk></s>", parse_special=True) == [1, 0, 2]
    plain = small_spm.encode("<s><unk></s><tool>", parse_special=False)
    assert not any(map(small_spm.is_control, plain))
    assert small_spm.token_text(plain[-1]) == "<tool>"


def test_a_lone_surrogate_is_refused(small: Tokenizer) -> None:
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        small.encode("a\ud83d", parse_special=False)


@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_an_unknown_id_is_refused(small: Tokenizer, token_id: int) -> None:
    with pytest.raises(ValueError, match="token id"):
        small.token_bytes(token_id)


def test_no_module_of_the_package_imports_jax() -> None:
    package = Path(sys.modules["runtime.text.tokenizer"].__file__ or "").parent
    names = [f"runtime.text.{path.stem}" for path in package.glob("*.py")]
    code = f"import sys, {', '.join(names)}; sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=package.parents[1], check=False)
    assert done.returncode == 0
    assert len(names) >= 10
