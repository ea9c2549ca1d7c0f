"""What another process has lowered is the program that this one would have made."""

import logging
import operator
import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from models.mesh import make_mesh
from models.operations import Operations
from pallas_kernels.add_norm import hopper_add_norm
from pallas_kernels.kernel_names import without_numbers
from runtime import recipes
from runtime.buckets import Bucket, SampleBucket, SampleMode
from runtime.exported import Setting, export_program, lower_exported
from runtime.lowering import LoweringFailed, LoweringProcess, lower_alike, num_processes
from runtime.part import decoder_dtype, decoder_width
from runtime.recipe import Recipe
from runtime.recipes import make_all
from runtime.step_functions import StepFunctions
from runtime.step_input import forward_packing
from tests.hopper import H200

ELSEWHERE = "call_exported"  # in the names of what was handed over


@pytest.fixture
def hidden(served):
    """Shape of the hidden states between the two programs of a step."""
    decoder = served.runner.decoder
    shape = served.buckets.max_rows, decoder_width(decoder)
    return jax.ShapeDtypeStruct(shape, decoder_dtype(decoder))


@pytest.fixture
def functions(served):
    """operations -> the functions of the tiny model's step."""
    runner = served.runner
    return partial(StepFunctions, runner.decoder, runner.head, make_mesh(1), served.shape)


@pytest.fixture
def forward(served, functions, hidden):
    """operations -> the recipe of a step of four rows."""

    def make(operations):
        runner, bucket = served.runner, Bucket(4, 0)
        vector = jax.ShapeDtypeStruct((forward_packing(bucket, served.shape).size,), jnp.int32)
        cache, state = runner._cache, runner._state
        return Recipe(
            "forward_decode_4",
            partial(functions(operations).forward, bucket),
            (runner.decoder.leaves, cache, state, vector),
            (cache, state, hidden),
        )

    return make


@pytest.fixture
def sample(served, functions, hidden):
    """The recipe of a greedy choice for four rows."""
    bucket, state = SampleBucket(4, SampleMode.GREEDY), served.runner._state
    arguments = (served.runner.head.leaves, state, hidden)
    function = partial(functions(Operations()).sample, bucket)
    return Recipe(bucket.name, function, arguments, (state, hidden))


@pytest.fixture
def process():
    with LoweringProcess(jax.devices()[0]) as process:
        yield process


def test_the_same_program_comes_back(forward, process):
    recipe = forward(Operations())
    elsewhere, here = process.lower(recipe).compile(), recipe.lower().compile()
    for program in (elsewhere, here):
        text = program.as_text()
        assert "HloModule jit_forward_decode_4" in text
        assert re.search(r"[/\"]attention/", text)
        assert "cache.k" in text
        assert (ELSEWHERE in text) == (program is elsewhere)
    found, wanted = elsewhere.memory_analysis(), here.memory_analysis()
    assert found.temp_size_in_bytes == wanted.temp_size_in_bytes
    assert found.alias_size_in_bytes >= wanted.alias_size_in_bytes
    # who is called after the one and then after the other must not look at its arguments again
    assert elsewhere.output_shardings == here.output_shardings


def test_it_computes_the_same(sample, process):
    """The state is given away to each call: both begin with a copy."""
    leaves, state, hidden = sample.arguments
    rows = jnp.asarray(np.random.default_rng(1).normal(size=hidden.shape), hidden.dtype)
    programs = [sample.lower().compile(), process.lower(sample).compile()]
    results = [program(leaves, jax.tree.map(jnp.copy, state), rows) for program in programs]
    for found, wanted in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_it_tells_what_tracing_and_lowering_took(forward, process):
    told = []

    def listen(event, seconds, **facts):
        if facts.get("fun_name") == "forward_decode_4":
            told.append((event.rpartition("/")[2], seconds))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        process.lower(forward(Operations()))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    # handing the program over traces and lowers a call of it, which is nothing beside
    for kind in ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration"):
        assert sum(event == kind for event, _ in told) >= 1, told
    assert max(seconds for _, seconds in told) > 0.02


def test_settings_of_jax_are_those_of_its_owner(served, functions, sample):
    """Of how random numbers are made, for one."""
    bucket = SampleBucket(4, SampleMode.UNLIMITED)
    function = partial(functions(Operations()).sample, bucket)
    drawing = Recipe(bucket.name, function, sample.arguments, sample.result)
    texts = []
    for setting in (False, True):
        with jax.threefry_partitionable(setting), LoweringProcess(jax.devices()[0]) as process:
            texts.append(process.lower(drawing).as_text())
    assert texts[0] != texts[1]


def test_a_device_that_is_set_does_not_travel(sample):
    device = jax.devices()[0]
    with jax.default_device(device), LoweringProcess(device) as process:
        assert ELSEWHERE in process.lower(sample).as_text(debug_info=True)


def test_the_kernels_are_lowered_for_the_device_without_it(forward):
    recipe = forward(Operations(add_norm=hopper_add_norm))
    exported = export_program(recipe.of_shapes(), Setting(H200, {}))
    assert b"mosaic_gpu_v2" in exported.content
    assert exported.seconds
    with pytest.raises(ValueError, match="platform"):  # it is for GPUs alone
        lower_exported(exported.content, recipe)


def test_kernels_have_the_same_bytes_wherever_they_are_lowered(forward, monkeypatch):
    """Else they would be compiled twice."""
    recipe = forward(Operations(add_norm=hopper_add_norm))
    # this machine has none
    monkeypatch.setattr("runtime.lowering._setting", lambda _: Setting(H200, {}))
    exported = []
    monkeypatch.setattr(
        "runtime.lowering.lower_exported", lambda content, _: exported.append(content)
    )
    with without_numbers(), LoweringProcess(jax.devices()[0]) as process:
        export_program(recipe.of_shapes(), Setting(H200, {}))  # JAX would number what follows
        lower_alike(jax.devices()[0], recipe)
        process.lower(recipe)
    kernels = [
        set(re.findall(r'kernel_hash = "([^"]+)"', export.deserialize(bytearray(x)).mlir_module()))
        for x in exported
    ]
    assert kernels[0] == kernels[1] and kernels[0]


def test_a_process_that_ends_says_so(sample, process):
    process._process.kill()
    process._process.wait()
    with pytest.raises(LoweringFailed, match="the process for sample_greedy_4 has ended"):
        process.lower(sample)


def test_what_cannot_be_sent_is_said(sample, process):
    recipe = Recipe("local", lambda: sample.function(), sample.arguments, sample.result)
    with pytest.raises(LoweringFailed, match="local cannot be sent"):
        process.lower(recipe)
    assert ELSEWHERE in process.lower(sample).as_text(debug_info=True)  # it lives on


def test_it_imports_what_is_imported_here(sample, tmp_path, monkeypatch):
    """Not what lies in the working directory; what is printed at its start is no answer."""
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").write_text("raise ImportError('another runtime')")
    (tmp_path / "sitecustomize.py").write_text("print('Loading...')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with LoweringProcess(jax.devices()[0]) as process:
        assert ELSEWHERE in process.lower(sample).as_text(debug_info=True)


def make(wanted, num_processes):
    return make_all(
        wanted, num_threads=2, num_processes=num_processes, device=jax.devices()[0], store=None
    )


def copies(recipe, count):
    """Recipes of one program under many names."""
    return {
        f"p{i}": Recipe(f"p{i}", recipe.function, recipe.arguments, recipe.result)
        for i in range(count)
    }


def test_many_programs_are_made_by_all(sample, monkeypatch):
    monkeypatch.setattr(recipes, "FIRST", 0)
    made = make(copies(sample, 24), num_processes=2)
    assert list(made.programs) == [f"p{i}" for i in range(24)]
    assert made.num_stored == 0
    assert made.lower_seconds > 0
    texts = [program.as_text() for program in made.programs.values()]
    assert all("sample_greedy_4" in text for text in texts)


def test_without_processes_all_are_lowered_here_in_their_order(sample, monkeypatch):
    lowered = []
    own = Recipe.lower
    monkeypatch.setattr(Recipe, "lower", lambda recipe: lowered.append(recipe.name) or own(recipe))
    make(copies(sample, 5), num_processes=0)
    assert lowered == [f"p{i}" for i in range(5)]


def test_processes_that_fail_leave_their_work_to_this_one(sample, monkeypatch, caplog):
    monkeypatch.setattr("runtime.lowering.BOOT", "raise SystemExit('no room')")
    with caplog.at_level(logging.WARNING):
        made = make(copies(sample, 8), num_processes=2)
    assert len(made.programs) == 8
    assert caplog.text.count("fewer processes lower programs") == 2
    # with the bytes that theirs would have had
    assert all(ELSEWHERE in program.as_text() for program in made.programs.values())


def test_a_process_that_cannot_be_started_is_done_without(sample, monkeypatch, caplog):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with caplog.at_level(logging.WARNING):
        made = make(copies(sample, 4), num_processes=1)
    assert len(made.programs) == 4
    assert "/nowhere/python" in caplog.text


@pytest.fixture
def bad(sample):
    return Recipe("bad", partial(operator.truediv, 1, 0), sample.arguments, sample.result)


def test_what_cannot_be_lowered_ends_the_rest(sample, bad, monkeypatch):
    lowered = []
    own = Recipe.lower
    monkeypatch.setattr(Recipe, "lower", lambda recipe: lowered.append(recipe.name) or own(recipe))
    with pytest.raises(ZeroDivisionError):
        make({"bad": bad, **copies(sample, 8)}, num_processes=0)
    assert lowered == ["bad"]


def test_what_cannot_be_lowered_elsewhere_says_so_here(sample, bad):
    with pytest.raises(ZeroDivisionError):
        make({"bad": bad, **copies(sample, 8)}, num_processes=1)


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
