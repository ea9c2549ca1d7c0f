"""What the template's environment offers, in process and without limits."""

import json
import re
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


def test_a_request_is_answered_as_json() -> None:
    request = json.dumps({"template": "{{ a }}", "variables": {"a": 1}})
    reply = json.loads(template_worker.answer(request.encode()))
    assert reply == {"outcome": "rendered", "text": "1"}
