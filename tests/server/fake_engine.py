"""An engine process without a device: it says every prompt again, token by token.

`python fake_engine.py [OPTIONS] FD`. The answer to choice c begins at token c of the prompt and
goes round; it ends at max_tokens or at a token that stops.
"""

import argparse
import os
import queue
import socket
import sys
import threading
import time
from array import array

import msgspec

from runtime.messages import (
    HEADER,
    Abort,
    AskSnapshot,
    EngineInfo,
    Fatal,
    FromEngine,
    Outputs,
    PageRuns,
    Profiled,
    Progress,
    Ready,
    Refused,
    RequestState,
    Shutdown,
    Snapshot,
    Start,
    StartProfile,
    Stats,
    StopProfile,
    Submit,
    decode_to_engine,
    encode,
)
from runtime.request import PromptLogprob, TokenOutput


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("fd", type=int)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds a step")
    parser.add_argument("--load", type=float, default=0.0, help="seconds until it is ready")
    parser.add_argument("--fatal-at-start", help="refuse to start, with this message")
    parser.add_argument("--die-at-start", action="store_true")
    parser.add_argument("--die-after", type=int, help="steps until it exits without a word")
    parser.add_argument("--fatal-after", type=int, help="steps until it says Fatal and exits")
    parser.add_argument("--garbage-after", type=int, help="steps until it writes nonsense")
    parser.add_argument("--hang-after", type=int, help="steps until it gives no more tokens")
    parser.add_argument("--fail-after", type=int, help="tokens until a request ends in an error")
    parser.add_argument("--refuse", help="refuse every request, with this message")
    parser.add_argument("--die-on-profile", action="store_true")
    parser.add_argument("--deaf", action="store_true", help="do not end when told to")
    parser.add_argument("--max-num-seqs", type=int, default=8)
    parser.add_argument("--max-model-len", type=int, default=256)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--events", help="file that gets a line for each message")
    parser.add_argument("--submits", help="file that gets each new request as a line of JSON")
    return FakeEngine(parser.parse_args()).run()


class FakeEngine:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.connection = socket.socket(fileno=args.fd)
        self.inbox: queue.Queue = queue.Queue()
        self.requests: dict[int, tuple[Submit, int]] = {}
        self.steps = self.prompt_tokens = self.generated = 0
        self.begun: list[int] = []
        self.is_profiling = False

    def run(self) -> int:
        threading.Thread(target=self.read, daemon=True).start()
        start = self.inbox.get()
        assert isinstance(start, Start)
        self.stop_ids = set(start.stop_ids)
        self.send(Progress("weights", "reading", 0.5))
        time.sleep(self.args.load)
        if self.args.die_at_start:
            return 9
        if self.args.fatal_at_start:
            self.send(Fatal(self.args.fatal_at_start))
            return 2
        self.send(Ready(self.info(start)))
        while True:
            messages = [] if self.requests else [self.inbox.get()]
            while not self.inbox.empty():
                messages.append(self.inbox.get())
            for message in messages:
                self.note(message)
                if isinstance(message, Shutdown):
                    if self.args.deaf:
                        time.sleep(60)
                    return 0
                self.take(message)
            time.sleep(self.args.delay)
            self.step()

    def read(self) -> None:
        stream = self.connection.makefile("rb")
        while header := stream.read(HEADER.size):
            self.inbox.put(decode_to_engine(stream.read(HEADER.unpack(header)[0])))
        if not self.args.deaf:
            os._exit(0)

    def send(self, message: FromEngine) -> None:
        self.connection.sendall(encode(message))

    def note(self, message: object) -> None:
        if self.args.events:
            with open(self.args.events, "a") as file:
                ids = getattr(message, "request_ids", None) or getattr(message, "request_id", "")
                salt = getattr(message, "cache_salt", "")
                file.write(f"{type(message).__name__} {ids} {salt}\n")

    def take(self, message: object) -> None:
        if isinstance(message, StartProfile | StopProfile):
            if self.args.die_on_profile:
                os._exit(9)
            starts = isinstance(message, StartProfile)
            wrong = starts == self.is_profiling
            self.is_profiling = starts
            self.send(Profiled("not now" if wrong else None))
        if isinstance(message, Submit):
            if self.args.submits:
                with open(self.args.submits, "ab") as file:
                    file.write(msgspec.json.encode(message) + b"\n")
            if self.args.refuse:
                self.send(Refused(message.request_id, self.args.refuse, "prompt", "invalid_value"))
            else:
                self.requests[message.request_id] = (message, 0)
                self.begun.append(message.request_id)
                self.prompt_tokens += len(message.prompt_ids)
        if isinstance(message, AskSnapshot):
            self.send(self.snapshot())
        if isinstance(message, Abort):
            for request_id in message.request_ids:
                self.requests.pop(request_id, None)

    def step(self) -> None:
        self.steps += bool(self.requests)
        if self.steps == self.args.die_after:
            os._exit(9)
        if self.steps == self.args.fatal_after:
            self.send(Fatal("the device failed: 0xdeadbeef01 in /usr/lib"))
            os._exit(70)
        if self.steps == self.args.garbage_after:
            self.connection.sendall(HEADER.pack(3) + b"abc")
        if self.args.hang_after is not None and self.steps >= self.args.hang_after:
            time.sleep(0.01)
            return
        outputs = []
        for request_id, (submit, done) in list(self.requests.items()):
            outputs.append(self.token(submit, done))
            self.requests[request_id] = (submit, done + 1)
            if outputs[-1].finish_reason:
                del self.requests[request_id]
        self.generated += len(outputs)
        begun, self.begun = self.begun, []
        self.send(Outputs(outputs, self.stats(), begun))

    def token(self, submit: Submit, done: int) -> TokenOutput:
        params, prompt = submit.params, submit.prompt_ids
        if submit.pooling is not None:
            vector = array("f", [3.0 if submit.pooling == "last" else -3.0, len(prompt), 0.0])
            return TokenOutput(
                submit.request_id, None, finish_reason="stop", embedding=vector.tobytes()
            )
        token_id = prompt[(done + submit.choice) % len(prompt)]
        reason, error = None, None
        assert params.max_tokens is not None
        if done + 1 == params.max_tokens:
            reason = "length"
        if token_id in params.stop_token_ids:
            reason = "stop"
        if token_id in self.stop_ids and not params.ignore_eos and done >= params.min_tokens:
            reason = "stop"
        if self.args.fail_after == done + 1:
            return TokenOutput(submit.request_id, None, finish_reason="error", error="not a number")
        others = tuple((i, -1.0 - i) for i in range(params.logprobs or 0))
        return TokenOutput(
            submit.request_id,
            token_id,
            logprob=None if params.logprobs is None else (-0.5 if done else float("-inf")),
            top_logprobs=others,
            finish_reason=reason,
            error=error,
            num_cached_tokens=len(prompt) // 2,
            prompt_logprobs=None if done else self.prompt_logprobs(submit),
        )

    def snapshot(self) -> Snapshot:
        """Each request has one page, behind a page from the cache."""
        running = [
            RequestState(request_id, len(submit.prompt_ids), done, 0, 0, 9, 1, 0)
            for request_id, (submit, done) in self.requests.items()
        ]
        owners = [-1, *(one.request_id for one in running), 0]
        counts = [1] * (len(owners) - 1) + [65 - len(owners)]
        pages = PageRuns(counts, owners, [False] * len(owners))
        return Snapshot(pages, running, [])

    def prompt_logprobs(self, submit: Submit) -> tuple[PromptLogprob | None, ...] | None:
        count = submit.params.prompt_logprobs
        if count is None:
            return None
        top = tuple((i, -0.25 - i) for i in range(count))
        return (None, *((token_id, -1.5, top) for token_id in submit.prompt_ids[1:]))

    def stats(self) -> Stats:
        return Stats(
            num_running=len(self.requests),
            prompt_tokens=self.prompt_tokens,
            generation_tokens=self.generated,
            steps=self.steps,
            step_seconds=0.002 * self.steps,
            bucket="decode_8",
            prefix_queries=self.prompt_tokens,
            prefix_hits=self.prompt_tokens // 2,
        )

    def info(self, start: Start) -> EngineInfo:
        return EngineInfo(
            model_name="fake",
            device="cpu",
            dtype="float32",
            attention="none",
            tensor_parallel_size=1,
            max_model_len=start.config.max_model_len or self.args.max_model_len,
            max_num_seqs=start.config.max_num_seqs or self.args.max_num_seqs,
            page_size=64,
            num_pages=65,
            vocab_size=self.args.vocab_size,
            num_programs=3,
            num_programs_cached=1,
            compile_seconds=0.1,
            load_seconds=0.2,
            weight_bytes=2**20,
            step_bytes=10,
            kv_bytes=2**21,
        )


if __name__ == "__main__":
    sys.exit(main())
