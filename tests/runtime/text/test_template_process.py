"""Hostile templates end as errors, in time, and the worker serves on."""

import asyncio
import os
import signal

import pytest

from runtime.text import worker_process
from runtime.text.template_process import TemplateError, TemplateLimitError, TemplateWorker

DOUBLING = "{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}"
BOMBS = {
    "nested ranges": "{% for i in range(99999) %}" * 2 + "{% endfor %}" * 2,
    "wide number": "{{ '%1000000000d' % 1 }}",
    "centred": "{{ 'a' | center(3000000000) }}",
    "padded": "{{ 'a'.ljust(3000000000) }}",
    "doubled string": "{% set n = namespace(s='ab') %}" + DOUBLING + "{{ n.s }}",
    "doubled list": "{% set n = namespace(s=[1, 2]) %}" + DOUBLING + "{{ n.s }}",
    "repeated": "{{ 'a' * 10000000000 }}",
    "lorem ipsum": "{{ lipsum(n=1000000) }}",
    "long output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "great power": "{{ 9 ** (9 ** 9) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "strftime": "{{ strftime_now('%c' * 100000000) }}",
    "replacement": "{{ ('a' * 100000) | replace('', 'b' * 100000) }}",
    "deep source": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ () | attr('__class__') }}",
    "{{ ''|map(attribute='__class__')|list }}",
    "{{ ['x'] | map(attribute='__class__') | map(attribute='__mro__') | list }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ strftime_now.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ '{0.__class__.__mro__}'.format(1) }}",
    "{% set f = '{0.__class__}'.format %}{{ f(1) }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{% for k in messages.__class__.__mro__ %}{{ k }}{% endfor %}",
    "{% set g = joiner.__call__.__func__ %}{{ g.__globals__ }}",
    "{% import 'os' as os %}{{ os.environ }}",
    "{% include '/etc/passwd' %}",
    "{{ messages.append({'role': 'system'}) }}",
]


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_in_time_and_the_worker_serves_on(worker: TemplateWorker, name: str) -> None:
    assert worker.render("{{ 1 }}", {}) == "1"
    with pytest.raises(TemplateError):
        worker.render(BOMBS[name], {})
    assert worker.render("{{ a }}", {"a": 2}) == "2"


@pytest.mark.parametrize("template", ESCAPES)
def test_the_sandbox_holds(worker: TemplateWorker, template: str) -> None:
    try:
        text = worker.render(template, {"messages": [{"role": "user"}]})
    except TemplateError:
        return
    # What the sandbox refuses may also be undefined, and so print as nothing.
    assert text.strip() in ("", "[]", "[Undefined]")


def test_the_environment_of_the_parent_is_not_inherited() -> None:
    os.environ["GGJAX_TEST_SECRET"] = "x"
    try:
        with TemplateWorker() as worker:
            assert worker.render("{{ 1 }}", {}) == "1"
            assert worker._worker._child is not None
            with open(f"/proc/{worker._worker._child.process.pid}/environ", "rb") as environ:
                assert b"GGJAX_TEST_SECRET" not in environ.read()
    finally:
        del os.environ["GGJAX_TEST_SECRET"]


def test_errors_carry_the_templates_words(worker: TemplateWorker) -> None:
    with pytest.raises(TemplateError, match="^no tools here$"):
        worker.render("{{ raise_exception('no tools here') }}", {})
    with pytest.raises(TemplateError, match="the chat template failed: ZeroDivisionError"):
        worker.render("{{ 1 / 0 }}", {})
    with pytest.raises(TemplateLimitError, match="writes more than"):
        worker.render(BOMBS["long output"], {})


@pytest.mark.parametrize(
    ("value", "problem"),
    [("\ud800", "lone surrogate"), (object(), "not JSON")],
)
def test_what_json_cannot_carry_is_refused(
    worker: TemplateWorker, value: object, problem: str
) -> None:
    with pytest.raises(TemplateError, match=problem):
        worker.render("{{ a }}", {"a": value})


def test_a_worker_that_dies_is_replaced() -> None:
    with TemplateWorker() as worker:
        assert worker.render("{{ 1 }}", {}) == "1"
        assert worker._worker._child is not None
        os.kill(worker._worker._child.process.pid, signal.SIGKILL)
        with pytest.raises(TemplateLimitError, match="ended its worker"):
            worker.render("{{ 2 }}", {})
        assert worker.render("{{ 3 }}", {}) == "3"


def test_the_deadline_is_the_callers() -> None:
    with TemplateWorker(deadline=0.05) as worker:
        assert worker.render("{{ 1 }}", {}) == "1"
        with pytest.raises(TemplateLimitError, match=r"longer than 0\.05 s"):
            worker.render(BOMBS["nested ranges"], {})


def test_a_reply_that_is_no_reply_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemplateWorker() as worker:
        assert worker.render("{{ 1 }}", {}) == "1"
        monkeypatch.setattr(worker_process, "receive", lambda channel, max_bytes: b"{")
        with pytest.raises(TemplateLimitError, match="ended its worker"):
            worker.render("{{ 2 }}", {})
        monkeypatch.undo()
        assert worker.render("{{ 3 }}", {}) == "3"


def test_a_closed_worker_refuses_and_leaves_no_process() -> None:
    worker = TemplateWorker()
    assert worker._worker._child is not None
    process = worker._worker._child.process
    worker.close()
    assert process.poll() is not None
    with pytest.raises(TemplateError, match="closed"):
        worker.render("{{ 1 }}", {})
    worker.close()


async def test_the_event_loop_stays_free_while_a_bomb_burns(worker: TemplateWorker) -> None:
    bomb = asyncio.create_task(worker.render_async(BOMBS["nested ranges"], {}))
    other = asyncio.create_task(worker.render_async("{{ a }}", {"a": "x"}))
    turns = 0
    while not bomb.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert turns > 2  # a blocked loop would have had one, at the end
    with pytest.raises(TemplateLimitError):
        await bomb
    assert await other == "x"
