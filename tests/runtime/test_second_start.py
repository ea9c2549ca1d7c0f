"""A second start reads its programs: the same answers, and nothing is compiled."""

import threading
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from benchmarks.make_gguf import write_gguf
from models.gguf_file import open_gguf
from runtime.buckets import Bucket
from runtime.compilation_cache import XLA_FOLDER, not_through_xla, use_compilation_cache
from runtime.compile_log import CompileLog
from runtime.config import RuntimeConfig
from runtime.forward_in_two import ForwardInTwo
from runtime.program_store import ProgramStore
from runtime.request import SamplingParams
from runtime.start import start_engine
from tests.runtime.test_program_store import age

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def own_cache():
    """JAX has not been told of a cache, and what a start sets does not outlast these tests."""
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], None)
    reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


def compile_something():
    jax.clear_caches()
    jax.jit(lambda x: x * 3 + 1)(jnp.ones(7)).block_until_ready()


def test_the_folder_is_the_one_that_was_asked_for_last(own_cache, tmp_path):
    for name in ("one", "two"):
        use_compilation_cache(str(tmp_path / name))
        compile_something()
        assert any((tmp_path / name / XLA_FOLDER).iterdir())


def test_a_cache_that_jax_was_told_of_stays(own_cache, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "told"))
    use_compilation_cache(str(tmp_path / "ours"))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "told")
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_steps_programs_pass_xlas_cache_by(own_cache, tmp_path):
    use_compilation_cache(str(tmp_path))
    with not_through_xla():
        compile_something()
    assert not (tmp_path / XLA_FOLDER).exists()
    compile_something()
    assert (tmp_path / XLA_FOLDER).exists()


def tiny(folder):
    """How a tiny model, with its programs in the same folder, is started."""
    path = write_gguf(folder / "tiny.gguf", size="tiny")
    return RuntimeConfig(
        str(path),
        dtype="float32",
        max_model_len=256,
        max_num_seqs=4,
        max_num_batched_tokens=128,
        compilation_cache_dir=str(folder / "cache"),
    )


@pytest.fixture(scope="module")
def started(tmp_path_factory, own_cache):
    """A model that has been started once, how it is started, and an answer."""
    folder = tmp_path_factory.mktemp("started")
    config = tiny(folder)
    engine = start(config)
    assert engine.info.num_programs_cached == 0
    return config, answer(engine)


def start(config, *, at_once=True):
    file = open_gguf(config.model)
    return start_engine(config, file, [], report=lambda *_: None, at_once=at_once)


def answer(engine):
    engine.add(1, [5, 6, 7], GREEDY)
    tokens = []
    while engine.has_work:
        tokens += [output.token_id for output in engine.step()]
    return tokens


def test_a_second_start_compiles_nothing_and_answers_the_same(started):
    config, wanted = started
    with closing(CompileLog()) as log:
        engine = start(config)
    assert log.num_compiled < 10  # what loading needs
    assert engine.info.num_programs_cached == engine.info.num_programs > 10
    assert list(engine.runner.programs.forward) == engine.buckets.all
    assert answer(engine) == wanted


def test_a_start_that_does_not_wait_serves_in_the_largest_shapes(started, monkeypatch):
    config, wanted = started
    go_on = threading.Event()
    load = ProgramStore.load

    def load_when_told(store, name, *others):
        if threading.current_thread().name == "read-programs":
            assert go_on.wait(60)
        return load(store, name, *others)

    monkeypatch.setattr(ProgramStore, "load", load_when_told)
    engine = start(config, at_once=False)
    programs = engine.runner.programs
    assert sorted(programs.forward) == sorted(engine.buckets.largest)
    assert engine.info.num_programs_cached == engine.info.num_programs == programs.num_programs
    assert answer(engine) == wanted
    go_on.set()
    wait_for_reading()
    assert sorted(programs.forward) == sorted(engine.buckets.all)
    assert answer(engine) == wanted


def test_what_was_old_when_it_was_put_off_is_still_there(started):
    config, _ = started
    for path in Path(config.compilation_cache_dir).glob("programs/*"):
        age(path)
    engine = start(config, at_once=False)
    wait_for_reading()
    assert sorted(engine.runner.programs.forward) == sorted(engine.buckets.all)


def test_what_breaks_while_the_engine_runs_is_done_without(started, caplog):
    config, wanted = started
    (path,) = Path(config.compilation_cache_dir).glob("programs/forward_decode_2-*")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    try:
        engine = start(config, at_once=False)
        wait_for_reading()
    finally:
        path.write_bytes(whole)
    assert "forward_decode_2 is missing: its steps are padded" in caplog.text
    assert Bucket(2, 0) not in engine.runner.programs.forward
    assert answer(engine) == wanted


def test_forwards_in_two_programs_are_kept_too(own_cache, tmp_path, monkeypatch):
    short = Bucket(64, 1)
    monkeypatch.setattr("runtime.start.first_layers", lambda *_, **__: {short: 1})
    config = tiny(tmp_path)
    calls = []
    call = ForwardInTwo.__call__
    monkeypatch.setattr(
        ForwardInTwo, "__call__", lambda self, *rest: calls.append(self) or call(self, *rest)
    )
    made = start(config)
    wanted = answer(made)
    assert calls == [made.runner.programs.in_two[short]]
    read = start(config, at_once=False)
    assert read.info.num_programs_cached == read.info.num_programs == made.info.num_programs
    assert read.info.step_bytes == made.info.step_bytes
    wait_for_reading()
    assert answer(read) == wanted
    assert calls[1:] == [read.runner.programs.in_two[short]]
    whole = start_engine(config, open_gguf(config.model), [], report=lambda *_: None, in_two=False)
    assert whole.runner.programs.in_two == {}
    assert answer(whole) == wanted and len(calls) == 2


def wait_for_reading():
    for thread in threading.enumerate():
        if thread.name == "read-programs":
            thread.join(60)
            assert not thread.is_alive()
