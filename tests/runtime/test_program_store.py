"""A second start reads its programs: the same answers, and nothing else than what was asked for."""

import logging
import os
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from benchmarks.make_gguf import write_gguf
from models.gguf_file import open_gguf
from runtime import program_store
from runtime.buckets import Bucket
from runtime.compilation_cache import LEAST_KEPT, use_compilation_cache
from runtime.compile_log import CompileLog
from runtime.config import RuntimeConfig
from runtime.program_store import ProgramStore, describe
from runtime.request import SamplingParams
from runtime.start import start_engine


@pytest.fixture
def entry(tmp_path):
    """A store with one program, which doubles what is donated to it."""
    store = ProgramStore(tmp_path / "programs", jax.devices()[:1], "facts")
    arguments = ({"x": jax.ShapeDtypeStruct((3,), jnp.float32)},)
    doubled = jax.jit(lambda tree: {"x": 2 * tree["x"]}, donate_argnums=0)
    store.save("double", arguments, doubled.lower(*arguments).compile())
    return store, arguments, {"x": 0}


def test_a_program_comes_back_as_it_was(entry):
    store, arguments, result = entry
    program = store.load("double", arguments, result)
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(program({"x": x})["x"], [0.0, 2.0, 4.0])
    assert x.is_deleted()


def test_what_it_is_made_from_is_the_question(entry, tmp_path, monkeypatch):
    store, arguments, result = entry
    longer = ({"x": jax.ShapeDtypeStruct((4,), jnp.float32)},)
    whole = ({"x": jax.ShapeDtypeStruct((3,), jnp.int32)},)
    for name, others in (("double", longer), ("double", whole), ("triple", arguments)):
        assert store.load(name, others, result) is None
    folder = tmp_path / "programs"
    same = ProgramStore(folder, jax.devices()[:1], "facts")
    assert same.load("double", arguments, result) is not None
    assert (
        ProgramStore(folder, jax.devices()[:1], "others").load("double", arguments, result) is None
    )
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --xla_dump_to=/nowhere")
    assert (
        ProgramStore(folder, jax.devices()[:1], "facts").load("double", arguments, result) is None
    )


def test_the_code_is_part_of_the_question(tmp_path):
    (tmp_path / "one").mkdir()
    source = tmp_path / "one" / "code.py"
    digests = []
    for text in ("x = 1", "x = 2", "x = 1"):
        source.write_text(text)
        digests.append(program_store._digest([tmp_path]))
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize("change", [lambda b: b[:20], lambda b: b"\0" + b[1:], lambda b: b""])
def test_a_broken_entry_is_named_and_made_again(entry, tmp_path, change, caplog):
    store, arguments, result = entry
    (path,) = (tmp_path / "programs").iterdir()
    path.write_bytes(change(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert store.load("double", arguments, result) is None
    assert f"{path} is broken and deleted" in caplog.text and not path.exists()


def test_a_folder_that_takes_nothing_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = ProgramStore(tmp_path / "file", jax.devices()[:1])
    arguments = (jax.ShapeDtypeStruct((3,), jnp.float32),)
    store.save("negate", arguments, jax.jit(lambda x: -x).lower(*arguments).compile())
    assert "negate is not kept for the next start" in caplog.text


def test_what_nobody_used_for_a_month_goes(entry, tmp_path):
    store, arguments, result = entry
    (path,) = (tmp_path / "programs").iterdir()
    old = time.time() - program_store.KEPT_SECONDS - 60
    os.utime(path, (old, old))
    assert store.load("double", arguments, result) is not None  # that was a use
    store.prune()
    assert path.exists()
    os.utime(path, (old, old))
    store.prune()
    assert not path.exists()


@dataclass(frozen=True)
class Choice:
    way: object
    size: int


def test_descriptions_have_no_addresses():
    text = describe((Choice(jnp.mean, 3), [partial(write_gguf, size="tiny")], 1.5))
    assert "0x" not in text and "size=3" in text
    assert "benchmarks.make_gguf.write_gguf" in text and "tiny" in text


GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def own_cache():
    """What a start sets for its process does not outlast these tests."""
    names = (
        "jax_compilation_cache_dir",
        LEAST_KEPT,
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


def test_the_folder_is_the_one_that_was_asked_for_last(own_cache, tmp_path):
    for name in ("one", "two"):
        use_compilation_cache(str(tmp_path / name))
        jax.jit(lambda x: x * 3 + 1)(jnp.ones(7)).block_until_ready()
        jax.clear_caches()
        assert any((tmp_path / name / "xla").iterdir())


@pytest.fixture(scope="module")
def started(tmp_path_factory, own_cache):
    """A model that has been started once, how it is started, and an answer."""
    folder = tmp_path_factory.mktemp("started")
    path = write_gguf(folder / "tiny.gguf", size="tiny")
    config = RuntimeConfig(
        str(path),
        dtype="float32",
        max_model_len=256,
        max_num_seqs=4,
        max_num_batched_tokens=128,
        compilation_cache_dir=str(folder / "cache"),
    )
    engine = start(config)
    assert engine.info.num_programs_cached == 0
    return config, answer(engine)


def start(config, *, at_once=True):
    log = CompileLog()
    with closing(log):
        return start_engine(
            config,
            open_gguf(config.model),
            [],
            report=lambda *_: None,
            log=log,
            at_once=at_once,
        )


def answer(engine):
    engine.add(1, [5, 6, 7], GREEDY)
    tokens = []
    while engine.has_work:
        tokens += [output.token_id for output in engine.step()]
    return tokens


def test_a_second_start_compiles_nothing_and_answers_the_same(started):
    config, wanted = started
    engine = start(config)
    assert engine.info.num_programs_cached == engine.info.num_programs
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


def test_what_breaks_while_the_engine_runs_is_done_without(started, caplog):
    config, wanted = started
    (path,) = Path(config.compilation_cache_dir).glob("programs/forward_decode_2-*")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    engine = start(config, at_once=False)
    wait_for_reading()
    assert "forward_decode_2" in caplog.text and Bucket(2, 0) not in engine.runner.programs.forward
    assert answer(engine) == wanted
    path.write_bytes(whole)


def wait_for_reading():
    for thread in threading.enumerate():
        if thread.name == "read-programs":
            thread.join(60)
            assert not thread.is_alive()
