"""An engine process without a device, for what is around it: a token a step for everyone.

python -m benchmarks.stand_in_engine RATE FD, as `server.engine_client` starts it. All answers are
the same text, which calls a tool; one that must have a form is the shortest way through its guide.
"""

import argparse
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np

from models.gguf_file import open_gguf
from runtime.guidance import GuideMaker, TokenGuide
from runtime.messages import (
    HEADER,
    Abort,
    EngineInfo,
    Outputs,
    Ready,
    Shutdown,
    Start,
    Stats,
    Submit,
    ToEngine,
    decode_to_engine,
    encode,
)
from runtime.request import SamplingParams, TokenOutput
from runtime.text.tokenizer import Tokenizer, build_tokenizer

# prose, and a tool call for those who look for one
TEXT = (
    "The weather of a city is what people talk about. Ask for it, and it is told.\n"
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris, on the river Seine"}}\n'
    "</tool_call>\n"
)
CLOSING = b'"}]0'


def run(connection: socket.socket, rate: float) -> None:
    """Serves until told to end, or until the other side is gone."""
    inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
    threading.Thread(target=read, args=(connection, inbox), daemon=True).start()
    start = inbox.get()
    assert isinstance(start, Start)
    speaker = Speaker(build_tokenizer(open_gguf(start.config.model).metadata))
    connection.sendall(encode(Ready(engine_info(speaker.tokenizer.vocab_size))))
    requests: dict[int, Iterator[TokenOutput]] = {}
    next_step = time.monotonic()
    while True:
        while not requests or not inbox.empty():
            message = inbox.get()
            if isinstance(message, Shutdown):
                return
            if isinstance(message, Submit):
                requests[message.request_id] = speaker.answer(message)
            if isinstance(message, Abort):
                for request_id in message.request_ids:
                    requests.pop(request_id, None)
        next_step = max(next_step + 1 / rate, time.monotonic())
        time.sleep(max(0.0, next_step - time.monotonic()))
        outputs = [next(answer) for answer in requests.values()]
        for output in outputs:
            if output.finish_reason is not None:
                del requests[output.request_id]
        connection.sendall(encode(Outputs(outputs, Stats(num_running=len(requests)))))


class Speaker:
    """Says what there is to say."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._end = min(tokenizer.stop_ids)
        self._text = tokenizer.encode(TEXT, parse_special=True)
        self._guides: GuideMaker | None = None
        numbers = range(tokenizer.vocab_size)
        # ends first, then what closes something, then the short
        self._preferred = sorted(numbers, key=lambda i: (i != self._end, self._order(i)))

    def answer(self, submit: Submit) -> Iterator[TokenOutput]:
        """The outputs of a request."""
        params = submit.params
        done = 0
        for token_id in self._tokens(params):
            done += 1
            reason = "length" if done == params.max_tokens else None
            if token_id == self._end and not params.ignore_eos:
                reason = "stop"
            scored = params.logprobs is not None
            yield TokenOutput(
                submit.request_id,
                token_id,
                logprob=-0.5 if scored else None,
                top_logprobs=tuple((i, -1.0 - i) for i in range(params.logprobs or 0)),
                finish_reason=reason,
            )

    def _tokens(self, params: SamplingParams) -> Iterator[int]:
        if params.structured_outputs is not None:
            self._guides = self._guides or GuideMaker(lambda: self.tokenizer)
            yield from self._guided(self._guides.make(params.structured_outputs))
            yield self._end
        while params.ignore_eos:
            yield from self._text
        yield from (*self._text, self._end)

    def _guided(self, guide: TokenGuide) -> Iterator[int]:
        mask = np.zeros(-(-self.tokenizer.vocab_size // 32), np.int32)
        while not guide.is_finished:
            guide.fill(mask)
            allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")
            token_id = next(i for i in self._preferred if allowed[i])
            if token_id == self._end:
                return
            guide.accept(token_id)
            yield token_id

    def _order(self, token_id: int) -> tuple[int, int]:
        text = self.tokenizer.token_bytes(token_id)
        closing = CLOSING.find(text) if len(text) == 1 else -1
        return (closing if closing >= 0 else len(CLOSING), len(text))


def read(connection: socket.socket, inbox: "queue.SimpleQueue[ToEngine]") -> None:
    """Fills the inbox; ends the process with the connection."""
    stream = connection.makefile("rb")
    while header := stream.read(HEADER.size):
        inbox.put(decode_to_engine(stream.read(HEADER.unpack(header)[0])))
    os._exit(0)


def engine_info(vocab_size: int) -> EngineInfo:
    """What a device of this kind would say of itself."""
    return EngineInfo(
        model_name="stand-in",
        device="cpu",
        dtype="none",
        attention="none",
        tensor_parallel_size=1,
        max_model_len=4096,
        max_num_seqs=1024,
        page_size=64,
        num_pages=65536,
        vocab_size=vocab_size,
        num_programs=0,
        num_programs_cached=0,
        compile_seconds=0.0,
        load_seconds=0.0,
        weight_bytes=0,
        step_bytes=0,
        kv_bytes=0,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rate", type=float, help="steps a second")
    parser.add_argument("fd", type=int)
    options = parser.parse_args()
    run(socket.socket(fileno=options.fd), options.rate)
