"""An engine process without a device, for measuring what is around it: a token a step for everyone.

python -m benchmarks.stand_in_engine RATE FD, as `server.engine_client` starts it.
"""

import argparse
import os
import queue
import socket
import threading
import time
from itertools import count

from models.gguf_file import open_gguf
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
from runtime.request import TokenOutput
from runtime.text.tokenizer import build_tokenizer

# prose, and a tool call for those who look for one
TEXT = (
    "The weather of a city is what people talk about. Ask for it, and it is told.\n"
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris, on the river Seine"}}\n'
    "</tool_call>\n"
)


def run(connection: socket.socket, rate: float) -> None:
    """Serves until told to end, or until the other side is gone."""
    inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
    threading.Thread(target=read, args=(connection, inbox), daemon=True).start()
    start = inbox.get()
    assert isinstance(start, Start)
    metadata = open_gguf(start.config.model).metadata
    tokenizer = build_tokenizer(metadata)
    ids = tokenizer.encode(TEXT, parse_special=True)
    connection.sendall(encode(Ready(engine_info(tokenizer.vocab_size))))
    requests: dict[int, tuple[Submit, count[int]]] = {}
    next_step = time.monotonic()
    while True:
        while not requests or not inbox.empty():
            message = inbox.get()
            if isinstance(message, Shutdown):
                return
            if isinstance(message, Submit):
                requests[message.request_id] = (message, count())
            if isinstance(message, Abort):
                for request_id in message.request_ids:
                    requests.pop(request_id, None)
        next_step = max(next_step + 1 / rate, time.monotonic())
        time.sleep(max(0.0, next_step - time.monotonic()))
        outputs = [token(submit, next(done), ids) for submit, done in requests.values()]
        for output in outputs:
            if output.finish_reason is not None:
                del requests[output.request_id]
        connection.sendall(encode(Outputs(outputs, Stats(num_running=len(requests)))))


def token(submit: Submit, done: int, ids: list[int]) -> TokenOutput:
    """The next token of a request."""
    params = submit.params
    scored = params.logprobs is not None
    return TokenOutput(
        submit.request_id,
        ids[done % len(ids)],
        logprob=-0.5 if scored else None,
        top_logprobs=tuple((i, -1.0 - i) for i in range(params.logprobs or 0)),
        finish_reason="length" if done + 1 == params.max_tokens else None,
    )


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
        kv_bytes=0,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rate", type=float, help="steps a second")
    parser.add_argument("fd", type=int)
    options = parser.parse_args()
    run(socket.socket(fileno=options.fd), options.rate)
