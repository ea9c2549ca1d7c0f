"""vLLM's command lines: taken where they mean the same, refused with advice elsewhere."""

import pytest

from server.flags import make_parser, runtime_config
from server.vllm_flags import ALWAYS, INSTEAD, ONLY


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
    with pytest.raises(SystemExit) as ended:
        parse(f"m.gguf {flag} other")
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"ggjax: {flag} can only be {values[0]}") and reason in line
    assert line.count("\n") == 1


def test_the_model_is_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime_config(make_parser().parse_args(["serve", "a.gguf"])).model == "a.gguf"
    with pytest.raises(ValueError, match=r"a\.gguf and --model b\.gguf: give the model once"):
        runtime_config(make_parser().parse_args(["serve", "a.gguf", "--model", "b.gguf"]))
