"""A forward as two programs gives what the one gives, and runs when the device is idle."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np
import pytest

from models.mesh import make_mesh
from models.operations import Operations
from runtime.experiments.pure_model import param_names
from runtime.forward_in_two import forwards_in_two, recipes_in_two
from runtime.part import split_decoder
from runtime.step_functions import StepFunctions
from runtime.step_input import forward_packing, make_step_input


@dataclass
class Counted:
    """A program, and how often it was called."""

    program: object
    calls: int = 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.program(*arguments)


@dataclass(frozen=True)
class Running:
    """What a step gave that still runs, or has ended."""

    ended: bool

    def is_ready(self):
        return self.ended


@pytest.fixture(scope="module")
def halves(served):
    """Both programs of every step with a prompt; the first has one layer of two."""
    runner = served.runner
    functions = StepFunctions(runner.decoder, runner.head, make_mesh(1), served.shape, Operations())
    array = partial(jax.ShapeDtypeStruct, dtype=np.int32)
    recipes = recipes_in_two(
        runner.decoder,
        first_layers(served),
        functions,
        runner._cache,
        runner._state,
        hidden=jax.ShapeDtypeStruct((served.buckets.max_rows, served.config.width), np.float32),
        vector=lambda bucket: array((forward_packing(bucket, served.shape).size,)),
    )
    return {half: recipe.lower().compile() for half, recipe in recipes.items()}


def first_layers(served):
    return {bucket: 1 for bucket in served.buckets.all if bucket.num_blocks}


@pytest.fixture
def in_two(served, halves, monkeypatch):
    """The runner has them."""
    counted = {half: Counted(program) for half, program in halves.items()}
    forwards = forwards_in_two(served.runner.decoder, first_layers(served), counted)
    monkeypatch.setattr(served.runner, "programs", replace(served.runner.programs, in_two=forwards))
    return forwards


def calls(forwards):
    return [(two.begin.calls, two.go_on.calls) for two in forwards.values()]


def answers(served, requests):
    return {
        request_id: [(output.token_id, output.logprob) for output in outputs]
        for request_id, outputs in served.run(requests).items()
    }


def test_a_lone_prompt_gets_the_same_answer(served, in_two, make_request, monkeypatch):
    def requests():
        return [make_request(i, 20 + 60 * i, 5, temperature=0.0, logprobs=0) for i in (0, 1)]

    alone = {}
    for request in requests():
        monkeypatch.setattr(served.runner, "_last_forward", Running(True))
        alone |= answers(served, [request])
    assert sum(begun for begun, _ in calls(in_two)) >= 2
    assert all(begun == ended for begun, ended in calls(in_two))
    monkeypatch.setattr(served.runner, "programs", replace(served.runner.programs, in_two={}))
    for request_id, wanted in answers(served, requests()).items():
        assert [token for token, _ in alone[request_id]] == [token for token, _ in wanted]
        np.testing.assert_allclose(
            [logprob for _, logprob in alone[request_id]],
            [logprob for _, logprob in wanted],
            rtol=1e-5,
        )


@pytest.mark.parametrize("ended", [False, True])
def test_a_device_that_has_work_gets_one_program(served, in_two, make_request, monkeypatch, ended):
    """What the step before gave says so."""
    scheduler = served.scheduler()
    scheduler.add(make_request(0, 20, 1, temperature=0.0))
    step = make_step_input(scheduler.schedule(), served.buckets, served.shape)
    runner, programs = served.runner, served.runner.programs

    def still_running(*arguments):
        cache, state, _ = programs.forward[step.bucket](*arguments)
        return cache, state, Running(ended)

    before = {**programs.forward, step.bucket: still_running}
    monkeypatch.setattr(runner, "programs", replace(programs, forward=before, in_two={}))
    runner.forward(step)
    monkeypatch.setattr(runner, "programs", programs)
    runner.forward(step)
    assert sum(begun for begun, _ in calls(in_two)) == ended


def test_both_write_the_cache_in_place(served, halves):
    cache = served.runner._cache
    for half, program in halves.items():
        memory = program.memory_analysis()
        assert memory.alias_size_in_bytes >= cache.k.nbytes + cache.v.nbytes, half
        assert memory.temp_size_in_bytes < cache.k.nbytes, half


def test_each_has_the_weights_of_its_layers(served):
    decoder = served.runner.decoder
    first, others = split_decoder(decoder, 1)
    names = param_names(decoder)
    assert sorted(param_names(first) + param_names(others)) == sorted(names)
    assert {name.split(".")[1] for name in param_names(others)} == {"1"}
    norm = [name for name in param_names(first) if name.startswith("layers.1")]
    assert norm == ["layers.1.attn_norm.scale"]  # one operation with the addition before
    assert len(first.leaves) == len(first.specs) and len(others.leaves) == len(others.specs)
    own = dict(zip(names, decoder.leaves, strict=True))
    for part in (first, others):
        for name, leaf in zip(param_names(part), part.leaves, strict=True):
            assert own[name] is leaf
