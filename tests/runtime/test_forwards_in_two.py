"""A forward as two programs gives what the one gives, and runs when the device is idle."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np
import pytest

from models.mesh import make_mesh
from models.operations import Operations
from runtime.experiments.pure_model import param_names
from runtime.forwards_in_two import ForwardsInTwo, Half
from runtime.part import split_decoder
from runtime.step_functions import StepFunctions
from runtime.step_input import forward_packing


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
    first_layers = {bucket: 1 for bucket in served.buckets.all if bucket.num_blocks}
    array = partial(jax.ShapeDtypeStruct, dtype=np.int32)
    hidden = jax.ShapeDtypeStruct((served.buckets.max_rows, served.config.width), np.float32)
    recipes = ForwardsInTwo(runner.decoder, first_layers).recipes(
        functions,
        runner._cache,
        runner._state,
        hidden,
        lambda bucket: array((forward_packing(bucket, served.shape).size,)),
    )
    return first_layers, {half: recipe.lower().compile() for half, recipe in recipes.items()}


@pytest.fixture
def in_two(served, halves, monkeypatch):
    """The runner has them."""
    first_layers, programs = halves
    forwards = ForwardsInTwo(served.runner.decoder, first_layers)
    for half, program in programs.items():
        forwards.keep(half, Counted(program))
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
    empty = replace(served.runner.programs, in_two=ForwardsInTwo(served.runner.decoder, {}))
    monkeypatch.setattr(served.runner, "programs", empty)
    for request_id, wanted in answers(served, requests()).items():
        assert [token for token, _ in alone[request_id]] == [token for token, _ in wanted]
        np.testing.assert_allclose(
            [logprob for _, logprob in alone[request_id]],
            [logprob for _, logprob in wanted],
            rtol=1e-5,
        )


@pytest.mark.parametrize("ended", [False, True])
def test_a_device_that_has_work_gets_one_program(served, in_two, make_request, monkeypatch, ended):
    monkeypatch.setattr(served.runner, "_last_forward", Running(ended))
    served.run([make_request(0, 20, 1, temperature=0.0)])
    assert sum(begun for begun, _ in calls(in_two)) == ended


def test_both_write_the_cache_in_place(served, halves):
    cache = served.runner._cache
    for half, program in halves[1].items():
        memory = program.memory_analysis()
        assert memory.alias_size_in_bytes >= cache.k.nbytes + cache.v.nbytes, half
        assert memory.temp_size_in_bytes < cache.k.nbytes, half


def test_one_half_is_not_enough(served, halves):
    first_layers, programs = halves
    forwards = ForwardsInTwo(served.runner.decoder, first_layers)
    bucket = next(iter(first_layers))
    assert forwards.get(bucket) is None
    forwards.keep(Half(bucket, False), programs[Half(bucket, False)])
    assert forwards.get(bucket) is None and forwards.values() == []
    forwards.keep(Half(bucket, True), programs[Half(bucket, True)])
    assert forwards.values() == [forwards.get(bucket)]


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
