"""Steps of any shape can be made up and timed."""

from types import SimpleNamespace

import numpy as np

from benchmarks import step_times
from runtime.buckets import Bucket, Buckets
from runtime.step_input import StepShape, forward_packing

SHAPE = StepShape(num_slots=4, pages_per_request=10, vocab_size=100)


def test_a_made_up_step_has_rows_and_prompts():
    bucket = Bucket(768, 12)
    step = step_times.step_of(bucket, SHAPE, rows=3, context=70)
    views = forward_packing(bucket, SHAPE).views(step.forward)
    assert views["positions"][:4].tolist() == [70, 70, 70, -1]
    assert views["blocks"].tolist() == [-1] + [3] * 8 + [2] * 3
    assert views["positions"][64:576].tolist() == list(range(512))
    assert views["positions"][576:].tolist() == list(range(192))
    assert set(views["slots"][64:576]) == {3} and set(views["slots"][576:]) == {2}
    assert (views["pages"][:, 0] == 4).all() and (views["admitted"][:, 0] == 4).all()


def test_pages_are_entered():
    bucket = Bucket(4, 0)
    pages = np.array([[1, 2, 30], [2, 2, 31]])
    step = step_times.step_of(bucket, SHAPE, rows=0, context=0, pages=pages)
    views = forward_packing(bucket, SHAPE).views(step.forward)
    assert views["pages"][:3].tolist() == [[1, 2, 30], [2, 2, 31], [4, 0, 0]]
    assert (views["positions"] == -1).all()


def test_slots_have_pages_before_steps_are_timed():
    steps = []
    runner = SimpleNamespace(forward=steps.append)
    engine = SimpleNamespace(runner=runner, shape=SHAPE, buckets=Buckets(4, 128, 1))
    step_times.enter_pages(engine, 3)
    views = [forward_packing(step.bucket, SHAPE).views(step.forward) for step in steps]
    entered = np.concatenate([view["pages"][:4] for view in views])
    assert sorted(entered[:, 2]) == list(range(1, 13))
    assert sorted(map(tuple, entered[:, :2])) == [(slot, i) for slot in range(4) for i in range(3)]
    del steps[:]
    assert step_times.forward_seconds(engine, Bucket(128, 2), 3, 70, calls=2) > 0
    assert len(steps) == 12 and {step.bucket for step in steps} == {Bucket(128, 2)}
