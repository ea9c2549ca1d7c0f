"""What the template's environment offers, in process and without limits."""

import json
import re
import socket
from datetime import datetime

import pytest

from runtime.text import template_worker
from runtime.text.template_worker import RenderReply, RenderRequest


def render(template: str, max_chars: int = 1000, **variables: object) -> RenderReply:
    return template_worker.render(RenderRequest(template, dict(variables)), max_chars)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% if true %}\n  a\n{% endif %}\nb", "  a\nb"),  # trim_blocks
        ("x\n  {% if true %}y{% endif %}", "x\ny"),  # lstrip_blocks
        ("{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% generation %}a{{ 1 }}{% endgeneration %}b", "a1b"),
        ("{{ {'b': 'é<', 'a': 1} | tojson }}", '{"b": "é<", "a": 1}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", '{"a": 2, "b": 1}'),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{% set n = namespace(x=1) %}{% set n.x = 2 %}{{ n.x }}", "2"),
        ("{{ missing }}", ""),
        ("{{ '<' }}", "<"),  # no HTML escapes
    ],
)
def test_the_environment_follows_hugging_face(template: str, expected: str) -> None:
    assert render(template) == RenderReply("rendered", expected)


def test_the_clock_can_be_asked() -> None:
    reply = render("{{ strftime_now('%Y') }}")
    assert reply.text in {str(datetime.now().year), str(datetime.now().year - 1)}


@pytest.mark.parametrize("name", ["lipsum", "cycler", "joiner"])
def test_generators_of_text_are_gone(name: str) -> None:
    assert render(f"{{{{ {name}() }}}}").outcome == "failed"


@pytest.mark.parametrize("name", ["center", "wordwrap", "urlize", "format", "attr", "pprint"])
def test_filters_without_use_are_gone(name: str) -> None:
    assert "No filter" in render(f"{{{{ 'a' | {name} }}}}").text


def test_a_refusal_is_the_templates_own_message() -> None:
    reply = render("{{ raise_exception('no ' + who) }}", who="tools")
    assert reply == RenderReply("refused", "no tools")


def test_an_error_is_named_without_addresses() -> None:
    reply = render("{{ {}[x] + range }}", x=1)
    assert reply.outcome == "failed"
    assert not re.search("0x[0-9a-f]{6}", reply.text)
    assert render("{{ 1 / 0 }}").text == "ZeroDivisionError: division by zero"
    assert render("{% if %}").text.startswith("TemplateSyntaxError: ")
    assert render("{{ '\\ud800' }}").outcome == "failed"


def test_output_is_bounded() -> None:
    assert render("{{ 'a' * 1000 }}").outcome == "rendered"
    assert render("{{ 'a' * 1001 }}") == RenderReply("limit", "writes more than 1,000 characters")


def test_it_serves_until_the_other_end_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    # This process has used more processor time than a child may.
    monkeypatch.setattr(template_worker, "limit_cpu", lambda: None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = {"template": "{{ a }}", "variables": {"a": 1}}
        template_worker.send(ours, json.dumps(request).encode())
        ours.shutdown(socket.SHUT_WR)
        template_worker.serve(theirs)
        replies = [json.loads(template_worker.receive(ours, 1000) or b"") for _ in range(2)]
    assert [reply["outcome"] for reply in replies] == ["ready", "rendered"]


def test_a_message_over_its_limit_is_not_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        template_worker.send(ours, b"x" * 100)
        with pytest.raises(ConnectionError, match="100 bytes; at most 99"):
            template_worker.receive(theirs, 99)


def test_half_a_message_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(template_worker.LENGTH.pack(10) + b"half")
        assert template_worker.receive(theirs, 100) is None
