"""Grammars are compiled beside the steps, and what was aborted meanwhile is not delivered on."""

import queue
import threading

from runtime.errors import RequestError
from runtime.messages import Submit
from runtime.preparation import Preparation, Prepared
from runtime.request import SamplingParams
from runtime.structured_outputs import StructuredOutputs

WANTED = StructuredOutputs(json_object=True)


def submit(request_id: int) -> Submit:
    return Submit(request_id=request_id, prompt_ids=[1], params=SamplingParams())


def test_a_request_is_delivered_when_its_grammar_is_compiled() -> None:
    inbox: queue.SimpleQueue[Prepared] = queue.SimpleQueue()
    may_go_on = threading.Event()
    preparation = Preparation(lambda wanted: may_go_on.wait(10) and None, inbox.put)
    preparation.begin(submit(1), WANTED)
    assert inbox.empty()
    may_go_on.set()
    prepared = inbox.get(timeout=10)
    assert (prepared.submit.request_id, prepared.error) == (1, None)
    assert preparation.end(prepared)
    assert not preparation.end(prepared)


def test_why_a_grammar_cannot_be_compiled_is_delivered() -> None:
    inbox: queue.SimpleQueue[Prepared] = queue.SimpleQueue()
    problem = RequestError("no", param="structured_outputs")

    def refuse(wanted: StructuredOutputs) -> None:
        raise problem

    preparation = Preparation(refuse, inbox.put)
    preparation.begin(submit(1), WANTED)
    assert inbox.get(timeout=10).error is problem


def test_an_aborted_request_is_wanted_no_more() -> None:
    inbox: queue.SimpleQueue[Prepared] = queue.SimpleQueue()
    preparation = Preparation(lambda wanted: None, inbox.put)
    preparation.begin(submit(1), WANTED)
    preparation.begin(submit(2), WANTED)
    preparation.abort(1)
    preparation.abort(99)
    ready = [inbox.get(timeout=10) for _ in range(2)]
    wanted = {prepared.submit.request_id: preparation.end(prepared) for prepared in ready}
    assert wanted == {1: False, 2: True}
