"""The child that renders chat templates.

Whoever wrote the template may be hostile: the sandbox keeps its code in, the limits here its memory
and processor time, and the parent (worker_process.py) kills the child when the deadline passes. It
imports little of ours, so that it starts fast.
"""

import json
import re
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, NoReturn

import jinja2
import msgspec
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.text.worker_child import run

MEMORY_LIMIT = 512 << 20  # bytes of address space
CPU_LIMIT = 2  # seconds a request
OUTPUT_FACTOR, OUTPUT_EXTRA = 4, 64 << 10  # characters a template may write: 4 × request + 64 KB
MAX_MESSAGE_CHARS = 400
ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")

# What chat templates in the wild use; center, wordwrap, urlize, format, attr and the rest do not
# occur there and only widen what a hostile one can do.
FILTERS = frozenset(
    """abs batch capitalize count d default dictsort e escape first float groupby indent int items
    join last length list lower map max min reject rejectattr replace reverse round safe select
    selectattr slice sort string sum title trim unique upper""".split()
)
GLOBALS = frozenset({"range", "dict", "namespace"})


class RenderRequest(msgspec.Struct, frozen=True):
    """A template and the names it sees."""

    template: str
    variables: dict[str, Any]


class RenderReply(msgspec.Struct, frozen=True):
    """`text` is the rendered text, or what went wrong.

    "refused" is the template's own `raise_exception`, "failed" an error in it, "limit" too much
    memory or output.
    """

    outcome: Literal["ready", "rendered", "refused", "failed", "limit"]
    text: str


class Refusal(Exception):
    """What `raise_exception` in a template raises."""


class OutputTooLong(Exception):
    """The template wrote more than a chat can need."""


class GenerationBlock(Extension):
    """`{% generation %}`, which marks an assistant's words for training, is its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def raise_exception(message: str) -> NoReturn:
    """A template's way to refuse a chat."""
    raise Refusal(message)


def strftime_now(form: str) -> str:
    """The local time in the form of `datetime.strftime`."""
    return datetime.now().strftime(form)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as Hugging Face's templates expect it: no HTML escapes, no ASCII escapes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def make_environment() -> ImmutableSandboxedEnvironment:
    """Jinja as Hugging Face sets it up, less what only a bomb needs."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationBlock]
    )
    environment.filters = {k: v for k, v in environment.filters.items() if k in FILTERS}
    environment.globals = {k: v for k, v in environment.globals.items() if k in GLOBALS}
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


@lru_cache(maxsize=4)
def compiled(source: str) -> jinja2.Template:
    """The template of `source`; a worker sees one, or a few in tests."""
    return make_environment().from_string(source)


def render(request: RenderRequest, max_chars: int) -> RenderReply:
    """The reply to one request."""
    try:
        pieces, length = [], 0
        for piece in compiled(request.template).generate(**request.variables):
            length += len(piece)
            if length > max_chars:
                raise OutputTooLong
            pieces.append(piece)
        text = "".join(pieces)
        text.encode()  # a lone surrogate is the template's error, not the reply's
        return RenderReply("rendered", text)
    except Refusal as refusal:
        return RenderReply("refused", str(refusal)[:MAX_MESSAGE_CHARS])
    except OutputTooLong:
        return RenderReply("limit", f"writes more than {max_chars:,} characters")
    except (MemoryError, OverflowError):
        return RenderReply("limit", "needs too much memory")
    except Exception as error:  # a template can raise anything, and whatever it is, it is a reply
        text = ADDRESS.sub("0x…", str(error))[:MAX_MESSAGE_CHARS]
        return RenderReply("failed", f"{type(error).__name__}: {text}")


def answer(message: bytes) -> bytes:
    """The reply to a request, both as JSON."""
    max_chars = OUTPUT_FACTOR * len(message) + OUTPUT_EXTRA
    request = msgspec.json.decode(message, type=RenderRequest)
    return msgspec.json.encode(render(request, max_chars))


if __name__ == "__main__":
    ready = msgspec.json.encode(RenderReply("ready", ""))
    run(answer, ready=ready, max_bytes=MEMORY_LIMIT, cpu_seconds=CPU_LIMIT)
