"""Programs in a folder: what is asked for comes back, and nothing else."""

import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.make_gguf import write_gguf
from runtime import program_store
from runtime.program_store import ProgramStore, describe


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
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --xla_dump_to=/nowhere")
        flagged = ProgramStore(folder, jax.devices()[:1], "facts")
    assert flagged.load("double", arguments, result) is None
    jax.config.update("jax_high_dynamic_range_gumbel", True)
    try:
        set_otherwise = ProgramStore(folder, jax.devices()[:1], "facts")
    finally:
        jax.config.update("jax_high_dynamic_range_gumbel", False)
    assert set_otherwise.load("double", arguments, result) is None


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


def age(path):
    old = time.time() - program_store.KEPT_SECONDS - 60
    os.utime(path, (old, old))


def test_what_nobody_used_for_a_month_goes(entry, tmp_path):
    store, arguments, result = entry
    (path,) = (tmp_path / "programs").iterdir()
    others = tmp_path / "programs" / "thesis.tex"
    others.write_text("")
    age(others)
    age(path)
    assert store.load("double", arguments, result) is not None  # that was a use
    store.prune()
    assert path.exists()
    age(path)
    assert store.has("double", arguments)  # and that
    store.prune()
    assert path.exists()
    age(path)
    store.prune()
    assert not path.exists() and others.exists()


def test_an_entry_that_cannot_be_read_now_stays(entry, tmp_path, monkeypatch, caplog):
    store, arguments, result = entry

    def refuse(_):
        raise OSError("too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        assert store.load("double", arguments, result) is None
    assert "cannot be used: too many open files" in caplog.text
    assert store.load("double", arguments, result) is not None


def test_what_could_not_be_written_whole_leaves_nothing(entry, tmp_path, monkeypatch, caplog):
    store, arguments, _ = entry
    (path,) = (tmp_path / "programs").iterdir()
    path.unlink()

    def refuse(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "rename", refuse)
    store.save("double", arguments, jax.jit(lambda x: -x).lower(*arguments[0].values()).compile())
    assert "double is not kept for the next start: no space left" in caplog.text
    assert not list((tmp_path / "programs").iterdir())


@dataclass(frozen=True)
class Choice:
    way: object
    size: int


def test_descriptions_have_no_addresses():
    text = describe((Choice(jnp.mean, 3), [partial(write_gguf, size="tiny")], 1.5))
    assert "0x" not in text and "size=3" in text
    assert "benchmarks.make_gguf.write_gguf" in text and "tiny" in text
