"""Programs are called in a thread, in the order of the calls, and what they raise arrives."""

import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from runtime.dispatch_thread import DispatchThread


class Runner:
    """Writes down what is called, and where."""

    def __init__(self, failing=()):
        self.calls, self.threads, self.failing = [], set(), failing
        self.go_on = threading.Event()

    def forward(self, step):
        self.go_on.wait(10)
        return self._call("forward", step)

    def sample(self, step, hidden, masks=None):
        return self._call("sample", step, hidden, masks)

    def read(self, plan, step):
        return ("read", plan, step)

    def _call(self, name, step, *rest):
        self.threads.add(threading.current_thread().name)
        self.calls.append((name, step.number))
        if (name, step.number) in self.failing:
            raise RuntimeError(f"{name} {step.number} failed")
        return (name, step.number, *rest)


def steps(count):
    return [SimpleNamespace(number=i) for i in range(count)]


def test_calls_return_at_once_and_happen_in_order():
    runner = Runner()
    thread = DispatchThread(runner)
    started = []
    for step in steps(3):
        started.append(thread.sample(step, thread.forward(step), masks=step.number))
    assert runner.calls == []  # the device is still busy with the first
    runner.go_on.set()
    results = [thread.read(f"plan {i}", step) for i, step in enumerate(started)]
    assert results[1] == ("read", "plan 1", ("sample", 1, ("forward", 1), 1))
    assert runner.calls == [(name, i) for i in range(3) for name in ("forward", "sample")]
    (name,) = runner.threads
    assert name != threading.current_thread().name


@pytest.mark.parametrize("failing", ["forward", "sample"])
def test_what_a_call_raises_its_step_raises(failing):
    runner = Runner(failing={(failing, 1)})
    runner.go_on.set()
    thread = DispatchThread(runner)
    first, second = (thread.sample(step, thread.forward(step)) for step in steps(2))
    assert thread.read("plan", first)[2][1] == 0
    with pytest.raises(RuntimeError, match=f"{failing} 1 failed"):
        thread.read("plan", second)


def test_nothing_compiles_in_the_thread():
    runner = Runner()
    runner.forward = lambda step: jax.jit(lambda x: x + step.number)(jnp.zeros(step.number + 5))
    thread = DispatchThread(runner)
    (step,) = steps(1)
    with pytest.raises(RuntimeError, match="(?i)trac"):
        thread.read("plan", thread.sample(step, thread.forward(step)))


def test_waiting_is_for_all_that_was_called():
    runner = Runner()
    runner.wait = lambda: runner.calls.append("waited")
    thread = DispatchThread(runner)
    (step,) = steps(1)
    thread.forward(step)
    runner.go_on.set()
    thread.wait()
    assert runner.calls == [("forward", 0), "waited"]
