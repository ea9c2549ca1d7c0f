"""The engine process over its socket: start, answer, refuse, abort, end."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.make_gguf import write_gguf
from models.gguf_file import open_gguf
from runtime.config import RuntimeConfig
from runtime.engine_loop import advice
from runtime.messages import (
    HEADER,
    Abort,
    AskSnapshot,
    Fatal,
    FromEngine,
    Outputs,
    Progress,
    Ready,
    Refused,
    Shutdown,
    Snapshot,
    Start,
    Submit,
    ToEngine,
    decode_from_engine,
    encode,
)
from runtime.request import SamplingParams, TokenOutput
from runtime.structured_outputs import StructuredOutputs
from runtime.text.tokenizer import build_tokenizer

OPTIONS = {"max_model_len": 256, "max_num_seqs": 2, "max_num_batched_tokens": 128}
QUICKLY = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiled, as this folder's programs are


class Peer:
    """The HTTP process's end, synchronous."""

    def __init__(self, connection: socket.socket, process: subprocess.Popen[bytes]):
        self.connection = connection
        self.process = process
        self._stream = connection.makefile("rb")

    def send(self, *messages: ToEngine) -> None:
        self.connection.sendall(b"".join(map(encode, messages)))

    def receive(self) -> FromEngine:
        while True:
            (size,) = HEADER.unpack(self._stream.read(HEADER.size))
            message = decode_from_engine(self._stream.read(size))
            if not isinstance(message, Progress):
                return message

    def outputs(self) -> Iterator[TokenOutput]:
        while True:
            message = self.receive()
            assert isinstance(message, Outputs), message
            yield from message.outputs


@contextmanager
def launched(**environment: str) -> Iterator[Peer]:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "runtime.engine_process", str(theirs.fileno())]
    environment = os.environ | QUICKLY | environment
    with (
        ours,
        subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment) as process,
    ):
        theirs.close()
        ours.settimeout(120)
        try:
            yield Peer(ours, process)
        finally:
            process.kill()


@contextmanager
def engine(model: Path | str, **options: int) -> Iterator[Peer]:
    with launched() as peer:
        peer.send(Start(RuntimeConfig(str(model), **(OPTIONS | options)), [3]))
        yield peer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_gguf(path, size="tiny")
    return path


def test_it_serves_refuses_aborts_and_ends(tiny: Path) -> None:
    with engine(tiny) as peer:
        ready = peer.receive()
        assert isinstance(ready, Ready)
        assert ready.info.max_model_len == 256
        assert ready.info.kv_tokens == 512

        greedy = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
        peer.send(Submit(1, [10, 11], greedy), Submit(2, [12], greedy))
        ended: dict[int, int] = {1: 0, 2: 0}
        outputs = peer.outputs()
        finished = 0
        while finished < 2:
            output = next(outputs)
            ended[output.request_id] += 1
            finished += output.finish_reason == "length"
        assert ended == {1: 5, 2: 5}

        scoring = SamplingParams(max_tokens=1, prompt_logprobs=1)
        peer.send(Submit(5, [7, 8, 9], scoring, priority=-1))
        peer.send(Submit(6, [7, 8, 9], SamplingParams(), pooling="mean"))
        last = {output.request_id: output for output in (next(outputs), next(outputs))}
        assert [score and score[0] for score in last[5].prompt_logprobs or ()] == [None, 8, 9]
        assert last[6].finish_reason == "stop" and last[6].embedding is not None
        assert len(last[6].embedding) % 4 == 0

        peer.send(Submit(3, [1] * 300, greedy))
        refused = next(m for m in iter(peer.receive, None) if not isinstance(m, Outputs))
        assert isinstance(refused, Refused)
        assert (refused.request_id, refused.code) == (3, "context_length_exceeded")
        assert "300 tokens" in refused.message

        long = SamplingParams(max_tokens=200, ignore_eos=True)
        peer.send(Submit(4, [9], long))
        assert next(outputs).request_id == 4
        peer.send(Abort([4, 77]))
        assert any(o.finish_reason == "abort" for o in outputs if o.request_id == 4)

        peer.send(AskSnapshot())
        snapshot = next(m for m in iter(peer.receive, None) if isinstance(m, Snapshot))
        assert sum(snapshot.pages.counts) == 8
        assert snapshot.running == []

        peer.send(Shutdown())
        assert peer.process.wait(30) == 0


def test_guided_answers_come_beside_free_ones_and_bad_forms_are_refused(tiny: Path) -> None:
    def guided(**form: Any) -> SamplingParams:
        wanted = StructuredOutputs(**form)
        return SamplingParams(temperature=0, max_tokens=50, structured_outputs=wanted)

    with engine(tiny) as peer:
        assert isinstance(peer.receive(), Ready)
        tokenizer = build_tokenizer(open_gguf(tiny).metadata)
        free = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
        peer.send(
            Submit(1, [10, 11], guided(choice=("the answer",))),
            Submit(2, [10], guided(json={"not": {}})),
            Submit(3, [12], free),
            Submit(4, [10], guided(regex="a+")),
            Abort([4]),
        )
        answers: dict[int, list[int]] = {1: [], 3: []}
        reasons: dict[int, str] = {}
        refused: list[Refused] = []
        while len(reasons) < 2 or not refused:
            message = peer.receive()
            if isinstance(message, Refused):
                refused.append(message)
                continue
            assert isinstance(message, Outputs)
            for output in message.outputs:
                assert output.token_id is not None
                answers[output.request_id].append(output.token_id)  # none of an aborted request
                if output.finish_reason is not None:
                    reasons[output.request_id] = output.finish_reason
        assert reasons == {1: "stop", 3: "length"}
        assert tokenizer.decode(answers[1]) == "the answer"
        ((request_id, code),) = [(message.request_id, message.code) for message in refused]
        assert (request_id, code) == (2, "invalid_schema")


def test_it_ends_before_it_has_started() -> None:
    with launched() as peer:
        peer.send(Shutdown())
        assert peer.process.wait(60) == 0


def test_it_ends_when_its_parent_is_gone(tiny: Path) -> None:
    with engine(tiny) as peer:
        peer.connection.shutdown(socket.SHUT_RDWR)
        assert peer.process.wait(30) == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("missing.gguf", {}, "missing.gguf"),
        ("tiny.gguf", {"max_model_len": 10**6}, "max_model_len 1000000 exceeds the 2048 tokens"),
        ("tiny.gguf", {"tensor_parallel_size": 9}, "tensor_parallel_size must be one of 1, got 9"),
        (
            "tiny.gguf",
            {"max_num_seqs": 100},
            r"max_num_batched_tokens \(128\) must be at least 192",
        ),
    ],
)
def test_a_start_that_cannot_be_says_why_in_one_line(
    tiny: Path, name: str, options: dict[str, int], message: str
) -> None:
    with engine(tiny.parent / name, **options) as peer:
        fatal = peer.receive()
        assert isinstance(fatal, Fatal)
        assert "\n" not in fatal.message
        assert re.search(message, fatal.message)
        assert peer.process.wait(30) == 2


def test_a_machine_without_a_device_says_so(tiny: Path) -> None:
    with launched(JAX_PLATFORMS="nonesuch") as peer:
        peer.send(Start(RuntimeConfig(str(tiny), **OPTIONS), [3]))
        fatal = peer.receive()
        assert isinstance(fatal, Fatal)
        assert re.match("JAX has nothing to compute on: .*nonesuch", fatal.message)
        assert peer.process.wait(30) == 2


def test_memory_that_others_hold_is_named() -> None:
    full = RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
    assert "nvidia-smi" in advice(full)
    assert not advice(RuntimeError("INTERNAL: something else"))


def test_an_embedding_comes_over_the_socket(tiny: Path) -> None:
    with engine(tiny) as peer:
        assert isinstance(peer.receive(), Ready)
        params = SamplingParams(max_tokens=1)
        peer.send(
            *(Submit(i, [5, 6, 7], params, pooling=p) for i, p in enumerate(("last", "mean")))
        )
        outputs = peer.outputs()
        found = {output.request_id: output for output in (next(outputs), next(outputs))}
        assert {output.finish_reason for output in found.values()} == {"stop"}
        last, mean = found[0].embedding, found[1].embedding
        assert last and mean and last != mean and len(last) == len(mean)
