"""What the HTTP process and the engine process say to each other, and the framing.

Each message is a msgspec struct, tagged by its name, behind its length as 4 bytes; the bytes travel
over an inherited socket pair. Nothing is pickled.

    HTTP → engine     Start, Submit, Abort, AskSnapshot, StartProfile, StopProfile, Shutdown
    engine → HTTP     Progress, Ready, Outputs, Refused, Snapshot, Profiled, Fatal
"""

import struct

import msgspec

from runtime.config import RuntimeConfig
from runtime.request import SamplingParams, TokenOutput

HEADER = struct.Struct("<I")
MAX_MESSAGE_BYTES = 256 * 2**20

# owners of a page that no request uses
FREE = 0
CACHED = -1  # it still holds a known prefix


class Start(msgspec.Struct, tag=True, frozen=True):
    """The first message: what to serve, and the ids that end an answer."""

    config: RuntimeConfig
    stop_ids: list[int]


class Submit(msgspec.Struct, tag=True, frozen=True):
    """A new request.

    Attributes:
        choice: numbers the answers to one prompt, so that each draws its own.
        priority: lower is served earlier.
        pooling: "last" or "mean" for an embedding instead of an answer.
    """

    request_id: int
    prompt_ids: list[int]
    params: SamplingParams
    seed: int = 0
    choice: int = 0
    cache_salt: str = ""
    priority: int = 0
    pooling: str | None = None


class Abort(msgspec.Struct, tag=True, frozen=True):
    """These requests are wanted no more; unknown ids are those that just ended."""

    request_ids: list[int]


class AskSnapshot(msgspec.Struct, tag=True, frozen=True):
    """Somebody looks: answer with a Snapshot between two steps."""


class StartProfile(msgspec.Struct, tag=True, frozen=True):
    """Trace the steps from now on, into this folder; the answer is a Profiled."""

    directory: str


class StopProfile(msgspec.Struct, tag=True, frozen=True):
    """Write the trace; the answer is a Profiled, once that is done."""


class Shutdown(msgspec.Struct, tag=True, frozen=True):
    """End now; what still runs is lost."""


class Progress(msgspec.Struct, tag=True, frozen=True):
    """A line about loading, for people; `fraction` of the stage where it is known."""

    stage: str
    text: str
    fraction: float | None = None


class EngineInfo(msgspec.Struct, frozen=True):
    """What was loaded, as facts for /v1/models, the start-up lines and admission."""

    model_name: str
    device: str
    dtype: str
    attention: str
    tensor_parallel_size: int
    max_model_len: int
    max_num_seqs: int
    page_size: int
    num_pages: int
    vocab_size: int
    num_programs: int
    num_programs_cached: int
    compile_seconds: float
    load_seconds: float
    weight_bytes: int
    kv_bytes: int
    step_bytes: int

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV pool holds (page 0 is never used)."""
        return (self.num_pages - 1) * self.page_size


class Stats(msgspec.Struct, frozen=True):
    """The engine's gauges and running totals after a step.

    Attributes:
        bucket: name of the bucket of the step whose tokens came last, which `step_seconds` has
            grown by; empty where none did.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_used_pages: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    steps: int = 0
    compilations: int = 0
    padding_tokens: int = 0
    step_seconds: float = 0.0
    bucket: str = ""


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Everything is compiled; requests may come."""

    info: EngineInfo


class Outputs(msgspec.Struct, tag=True, frozen=True):
    """All tokens of one step, and the gauges after it; `begun` are requests that left the queue."""

    outputs: list[TokenOutput]
    stats: Stats
    begun: list[int] = []


class Refused(msgspec.Struct, tag=True, frozen=True):
    """A request that was not admitted: RequestError's fields."""

    request_id: int
    message: str
    param: str | None
    code: str


class PageRuns(msgspec.Struct, frozen=True):
    """Pages of the KV pool in order, run-length coded: three columns, an entry for each run.

    Attributes:
        counts: so many neighbouring pages are alike.
        owners: id of the oldest request that uses them, else FREE or CACHED.
        shared: found in the prefix cache, or used by several requests.
    """

    counts: list[int]
    owners: list[int]
    shared: list[bool]


class RequestState(msgspec.Struct, frozen=True):
    """How far one request is, in tokens; `num_pages` 0 while it waits."""

    request_id: int
    num_prompt: int
    num_output: int
    num_computed: int
    num_cached: int
    max_tokens: int
    num_pages: int
    num_preemptions: int


class Snapshot(msgspec.Struct, tag=True, frozen=True):
    """Who has what, between two steps.

    Attributes:
        pages: all of the pool but page 0, which nobody gets.
        running: oldest first.
        waiting: the first of them; Stats has their number.
    """

    pages: PageRuns
    running: list[RequestState]
    waiting: list[RequestState]


class Profiled(msgspec.Struct, tag=True, frozen=True):
    """A profile was started or written, or `error` says why not."""

    error: str | None = None


class Fatal(msgspec.Struct, tag=True, frozen=True):
    """The engine ends; `message` is one line for the operator."""

    message: str


ToEngine = Start | Submit | Abort | AskSnapshot | StartProfile | StopProfile | Shutdown
FromEngine = Progress | Ready | Outputs | Refused | Snapshot | Profiled | Fatal

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_from_engine = msgspec.msgpack.Decoder(FromEngine)


def encode(message: ToEngine | FromEngine) -> bytes:
    """The message as bytes to write: header and body."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def decode_to_engine(body: bytes) -> ToEngine:
    """A body that the HTTP process wrote.

    Raises:
        msgspec.ValidationError: it is no such message.
    """
    return _to_engine.decode(body)


def decode_from_engine(body: bytes) -> FromEngine:
    """A body that the engine process wrote.

    Raises:
        msgspec.ValidationError: it is no such message.
    """
    return _from_engine.decode(body)
