"""Prompts equal to llama.cpp's, prefills, and what a malformed chat is told."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.text.chat_template import ChatTemplate
from runtime.text.template_process import TemplateError, TemplateLimitError, TemplateWorker
from runtime.text.tokenizer import Tokenizer, build_tokenizer

SHORT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hel"}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]}


@pytest.fixture
def short(small: Tokenizer, worker: TemplateWorker) -> ChatTemplate:
    return ChatTemplate(SHORT, small, worker)


def test_prompts_and_ids_equal_llama_cpp(
    real: Tokenizer, real_metadata: dict[str, Any], worker: TemplateWorker, goldens: Path
) -> None:
    template = ChatTemplate(real_metadata["tokenizer.chat_template"], real, worker)
    cases = json.loads((goldens / "chat_templates.json").read_text())["cases"]
    assert cases
    for case in cases:
        rendered = template.render_chat(**case["request"])
        assert rendered.text == case["prompt"], case["name"]
        assert rendered.ids == case["ids"], case["name"]


def test_the_real_template_passes_its_check(
    real: Tokenizer, real_metadata: dict[str, Any], worker: TemplateWorker
) -> None:
    template = ChatTemplate(real_metadata["tokenizer.chat_template"], real, worker)
    assert template.check() == ()
    assert template.sha256 == "cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f"


async def test_the_async_face_gives_the_same(short: ChatTemplate) -> None:
    assert await short.render_chat_async([USER]) == short.render_chat([USER])


def test_a_trailing_assistant_message_is_a_prefill(short: ChatTemplate) -> None:
    assert short.render_chat([USER, ASSISTANT]).text == "[user]Hi;[assistant]Hel"
    continued = short.render_chat(
        [USER, ASSISTANT], add_generation_prompt=False, continue_final_message=True
    )
    assert continued.text == "[user]Hi;[assistant]Hel"
    closed = short.render_chat([USER, ASSISTANT], add_generation_prompt=False)
    assert closed.text == "[user]Hi;[assistant]Hel;"


def test_a_trailing_tool_call_is_no_prefill(short: ChatTemplate) -> None:
    assert short.render_chat([USER, CALL]).text == "[user]Hi;[assistant]None;[assistant]"


@pytest.mark.parametrize("messages", [[], [USER], [USER, CALL]])
def test_only_an_assistant_can_be_continued(short: ChatTemplate, messages: list[Any]) -> None:
    with pytest.raises(TemplateError, match="only a final assistant message"):
        short.render_chat(messages, continue_final_message=True)


def test_parts_of_text_are_joined_by_newlines(short: ChatTemplate) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    prompt = short.render_chat([{"role": "user", "content": parts}]).text
    assert prompt == "[user]a\nb;[assistant]"


def test_missing_content_is_empty(short: ChatTemplate) -> None:
    assert short.render_chat([{"role": "user"}]).text == "[user];[assistant]"


@pytest.mark.parametrize(
    ("arguments", "expected"), [('{"a": "é"}', '{"a": "é"}'), ("", "{}"), ({"a": 1}, '{"a": 1}')]
)
def test_tool_arguments_reach_the_template_as_an_object(
    small: Tokenizer, worker: TemplateWorker, arguments: Any, expected: str
) -> None:
    source = "{{ messages[0].tool_calls[0].function.arguments | tojson }}"
    call = {"function": {"name": "f", "arguments": arguments}}
    rendered = ChatTemplate(source, small, worker).render_chat(
        [{"role": "assistant", "content": None, "tool_calls": [call]}]
    )
    assert rendered.text == expected


def test_the_template_sees_tools_tokens_and_further_names(
    small: Tokenizer, worker: TemplateWorker
) -> None:
    source = "{{ tools | tojson }}{{ eos_token }}{{ enable_thinking }}{{ bos_token }}"
    rendered = ChatTemplate(source, small, worker).render_chat(
        [USER], tools=[{"name": "f"}], enable_thinking=False
    )
    assert rendered.text == '[{"name": "f"}]<|im_end|>False'
    assert small.eos_id in rendered.ids


def test_a_bos_token_is_added_once(bpe_metadata: Any, worker: TemplateWorker) -> None:
    tokens: list[str] = bpe_metadata()["tokenizer.ggml.tokens"]
    bos_id = tokens.index("<|box|>")
    tokenizer = build_tokenizer(bpe_metadata(bos_token_id=bos_id, add_bos_token=True))
    for source in ("x", "{{ bos_token }}x"):
        ids = ChatTemplate(source, tokenizer, worker).render_chat([USER]).ids
        assert ids == [bos_id, tokens.index("x")]


def test_without_a_template_a_chat_is_refused(small: Tokenizer, worker: TemplateWorker) -> None:
    template = ChatTemplate(None, small, worker)
    assert template.sha256 is None
    with pytest.raises(TemplateError, match="--chat-template FILE"):
        template.render_chat([USER])


def test_the_digest_is_that_of_the_source(short: ChatTemplate) -> None:
    assert short.sha256 == hashlib.sha256(SHORT.encode()).hexdigest()


def test_the_check_names_what_a_template_refuses(small: Tokenizer, worker: TemplateWorker) -> None:
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% if tools %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    assert ChatTemplate(source, small, worker).check() == ("system", "tools")


def test_the_check_raises_where_nothing_works(small: Tokenizer, worker: TemplateWorker) -> None:
    with pytest.raises(TemplateError, match="TemplateSyntaxError"):
        ChatTemplate("{% if %}", small, worker).check()
    source = "{% if tools %}{{ 'a' * 10000000 }}{% endif %}"
    with pytest.raises(TemplateLimitError, match="writes more"):
        ChatTemplate(source, small, worker).check()


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "root", "content": ""}, "unknown role 'root'"),
        ({"content": ""}, "unknown role None"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "list of text parts"),
        ({"role": "user", "content": [{"type": "text"}]}, "list of text parts"),
        ({"role": "user", "content": "\ud800"}, "lone surrogate"),
        ({"role": "user", "content": "a", "name": "\ud800"}, "lone surrogate"),
        ({"role": "assistant", "tool_calls": [3]}, "must hold a function"),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}, "JSON object"),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": "[]"}}]}, "JSON object"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"arguments": "[" * 10**5}}]},
            "JSON object",
        ),
    ],
)
def test_a_malformed_chat_is_refused(
    short: ChatTemplate, message: dict[str, Any], problem: str
) -> None:
    with pytest.raises(TemplateError, match=problem):
        short.render_chat([message])


@pytest.mark.parametrize("name", ["bos_token", "documents", "raise_exception"])
def test_the_names_of_the_template_cannot_be_replaced(short: ChatTemplate, name: str) -> None:
    with pytest.raises(TemplateError, match=f"must not be called '{name}'"):
        short.render_chat([USER], **{name: "x"})
