"""What another process has lowered is the program that this one would have made."""

import logging
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice

from models.mesh import make_mesh
from models.operations import Operations
from pallas_kernels.add_norm import hopper_add_norm
from runtime.buckets import Bucket, SampleBucket, SampleMode
from runtime.exported import Order, Setting, export_program, lower_exported
from runtime.lowering import LoweringProcess, num_processes
from runtime.part import decoder_dtype, decoder_width
from runtime.recipe import Recipe
from runtime.recipes import make_all
from runtime.step_functions import StepFunctions
from runtime.step_input import forward_packing

BUCKET = Bucket(4, 0)
FAST = Operations(add_norm=hopper_add_norm)


@pytest.fixture
def forward(served):
    """operations -> the recipe of a step of four rows."""

    def make(operations):
        runner, shape = served.runner, served.shape
        functions = StepFunctions(runner.decoder, runner.head, make_mesh(1), shape, operations)
        vector = jax.ShapeDtypeStruct((forward_packing(BUCKET, shape).size,), jnp.int32)
        width, dtype = decoder_width(runner.decoder), decoder_dtype(runner.decoder)
        hidden = jax.ShapeDtypeStruct((served.buckets.max_rows, width), dtype)
        cache, state = runner._cache, runner._state
        return Recipe(
            "forward_decode_4",
            partial(functions.forward, BUCKET),
            (runner.decoder.leaves, cache, state, vector),
            (cache, state, hidden),
        )

    return make


@pytest.fixture
def sample(served):
    runner = served.runner
    functions = StepFunctions(runner.decoder, runner.head, make_mesh(1), served.shape, Operations())
    bucket = SampleBucket(4, SampleMode.GREEDY)
    width, dtype = decoder_width(runner.decoder), decoder_dtype(runner.decoder)
    hidden = jax.ShapeDtypeStruct((served.buckets.max_rows, width), dtype)
    state = runner._state
    arguments = (runner.head.leaves, state, hidden)
    return Recipe(bucket.name, partial(functions.sample, bucket), arguments, (state, hidden))


def test_the_same_program_comes_back(forward):
    recipe = forward(Operations())
    told = {}

    def listen(event, seconds, **facts):
        told.setdefault(facts.get("fun_name"), []).append(event)

    with LoweringProcess(jax.devices()[0]) as process:
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            elsewhere = process.lower(recipe).compile()
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
    here = recipe.lower().compile()
    assert any("trace" in event for event in told["forward_decode_4"])
    for program in (elsewhere, here):
        text = program.as_text()
        assert "HloModule jit_forward_decode_4" in text
        assert "/attention/" in text
        assert "cache.k" in text
    found, wanted = elsewhere.memory_analysis(), here.memory_analysis()
    assert found.temp_size_in_bytes == wanted.temp_size_in_bytes
    assert found.alias_size_in_bytes >= wanted.alias_size_in_bytes


def test_it_computes_the_same(sample):
    """The state is given away to each call: both begin with a copy."""
    leaves, state, hidden = sample.arguments
    rows = jnp.asarray(np.random.default_rng(1).normal(size=hidden.shape), hidden.dtype)
    with LoweringProcess(jax.devices()[0]) as process:
        programs = [sample.lower().compile(), process.lower(sample).compile()]
    results = [program(leaves, jax.tree.map(jnp.copy, state), rows) for program in programs]
    for found, wanted in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_kernels_are_lowered_for_the_device_without_it(forward):
    recipe = forward(FAST)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), recipe.arguments)
    setting = Setting("cuda", AbstractDevice("NVIDIA H200", 132, "gpu"), {})
    exported = export_program(Order(recipe.function, shapes), setting)
    assert exported.content.count(b"mosaic_gpu_v2")
    with pytest.raises(ValueError, match="platform"):  # it is for GPUs alone
        lower_exported(exported.content, recipe)


def test_a_process_that_ends_is_replaced_by_this_one(sample, caplog):
    with LoweringProcess(jax.devices()[0]) as process:
        process._process.kill()
        process._process.wait()
        with caplog.at_level(logging.WARNING):
            lowered = process.lower(sample)
    assert "sample_greedy_4 is lowered here" in caplog.text
    assert lowered.as_text() == sample.lower().as_text()


def test_many_programs_are_made_by_all(sample):
    names = [f"p{i}" for i in range(9)]
    recipes = {
        name: Recipe(name, sample.function, sample.arguments, sample.result) for name in names
    }
    made = make_all(recipes, num_threads=2, num_processes=2, device=jax.devices()[0], store=None)
    assert list(made.programs) == names
    assert made.num_stored == 0
    assert made.lower_seconds > 0
    assert all("sample_greedy_4" in made.programs[name].as_text() for name in names)


def test_what_cannot_be_lowered_is_said(sample):
    def fail():
        raise ZeroDivisionError("no such function")

    recipes = {"bad": Recipe("bad", fail, (), None), "good": sample}
    with pytest.raises(ZeroDivisionError, match="no such function"):
        make_all(recipes, num_threads=1, num_processes=0, device=jax.devices()[0], store=None)


@pytest.mark.parametrize(
    ("capability", "num_devices", "cores", "count"),
    [("9.0", 1, 16, 4), ("9.0", 1, 64, 4), ("9.0", 1, 3, 0), ("9.0", 2, 32, 0), ("8.0", 1, 64, 0)],
)
def test_processes_are_for_kernels_and_spare_cores(
    monkeypatch, capability, num_devices, cores, count
):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    device = SimpleNamespace(compute_capability=capability)
    assert num_processes(device, num_devices) == count
    assert num_processes(jax.devices("cpu")[0], 1) == 0


def test_it_imports_what_is_imported_here(sample, tmp_path, monkeypatch, caplog):
    """Not what lies in the working directory, and without the package being installed."""
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").write_text("raise ImportError('another runtime')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with caplog.at_level(logging.WARNING), LoweringProcess(jax.devices()[0]) as process:
        process.lower(sample)
    assert "lowered here" not in caplog.text
