"""vLLM's command lines: taken where they mean the same, refused with advice elsewhere."""

import pytest

from server.flags import make_parser, runtime_config
from server.vllm_flags import ALWAYS, INSTEAD, ONLY, with_dashes


def parse(words: str) -> object:
    return make_parser().parse_args(["serve", *words.split()])


def test_a_usual_vllm_command_line_is_taken() -> None:
    words = "--model m.gguf --device-memory-utilization 0.5 --max-model-len auto -q gguf"
    words += " --pipeline-parallel-size 1 --disable-log-requests --enable-log-requests"
    args = make_parser().parse_args(["serve", *words.split(), *ALWAYS])
    config = runtime_config(args)
    assert config.model == "m.gguf"
    assert config.gpu_memory_utilization == 0.5
    assert config.max_model_len is None
    assert args.log_requests


def test_the_command_line_of_vllms_container_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--model m.gguf --gpu-memory-utilization 0.95 --max-model-len 8192"
    words += " --kv-cache-dtype auto --max-num-seqs 128 --port 8000"
    for spelt in (words, words.replace("-", "_").replace("__", "--").replace(" _", " -")):
        args = make_parser().parse_args(with_dashes(["serve", *spelt.split()]))
        config = runtime_config(args)
        assert (config.model, args.port) == ("m.gguf", 8000)
        assert (config.gpu_memory_utilization, config.max_model_len) == (0.95, 8192)
        assert (config.kv_cache_dtype, config.max_num_seqs) == ("auto", 128)
    assert capsys.readouterr().err == ""


def test_only_names_of_flags_get_dashes() -> None:
    words = ["serve", "a_b.gguf", "--max_model-len=8_k", "--api-key", "x_y", "-tp", "--a_b_c"]
    assert with_dashes(words) == [
        *("serve", "a_b.gguf", "--max-model-len=8_k", "--api-key", "x_y", "-tp", "--a-b-c")
    ]


@pytest.mark.parametrize("flag", ALWAYS)
def test_what_is_always_so_is_said_to_be(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    parse(f"m.gguf {flag}")
    line = f"ggjax: {flag}: this is always so, and the flag can be left out\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("flag", INSTEAD)
@pytest.mark.parametrize("form", ["{}", "{} value", "{}=value"])
def test_other_flags_are_one_line_of_advice(
    flag: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("m.gguf " + form.format(flag))
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"ggjax: {flag}: {INSTEAD[flag]}\n"


@pytest.mark.parametrize("flag", ONLY)
def test_other_values_are_one_line_with_the_reason(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values, reason = ONLY[flag]
    for value in values:
        parse(f"m.gguf {flag} {value}")
        assert capsys.readouterr().err.startswith(f"ggjax: {flag} {value}: this is always so")
    with pytest.raises(SystemExit) as ended:
        parse(f"m.gguf {flag} other")
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"ggjax: {flag} can only be {values[0]}") and reason in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("flag", ["--disable-log-requests", "--no-enable-log-requests"])
def test_requests_are_not_logged_where_that_is_said(flag: str) -> None:
    assert not make_parser().parse_args(["serve", "--log-requests", flag]).log_requests
    assert not make_parser().parse_args(["serve"]).log_requests


def test_the_model_is_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime_config(make_parser().parse_args(["serve", "a.gguf"])).model == "a.gguf"
    with pytest.raises(ValueError, match=r"a\.gguf and --model b\.gguf: give the model once"):
        runtime_config(make_parser().parse_args(["serve", "a.gguf", "--model", "b.gguf"]))
