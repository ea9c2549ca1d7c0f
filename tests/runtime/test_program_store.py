"""A second start reads its programs: the same answers, and nothing else than what was asked for."""

import logging
import os
import time
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.make_gguf import write_gguf
from runtime import program_store
from runtime.llm import LLM
from runtime.program_store import ProgramStore, describe
from runtime.request import SamplingParams


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
    assert f"double is compiled again: {path}" in caplog.text


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


def test_a_second_start_compiles_no_program_and_answers_the_same(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", size="tiny")
    options = {"max_model_len": 256, "max_num_seqs": 2, "max_num_batched_tokens": 128}
    greedy = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    answers, cached = [], []
    for _ in range(2):
        with LLM(
            str(path), dtype="float32", compilation_cache_dir=str(tmp_path / "cache"), **options
        ) as llm:
            (output,) = llm.generate([[5, 6, 7]], greedy)
            answers.append(output.outputs[0].token_ids)
            info = llm.engine.info
            cached.append(info.num_programs_cached)
    assert answers[0] == answers[1]
    assert cached == [0, info.num_programs]
