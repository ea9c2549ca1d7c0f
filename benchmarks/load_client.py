"""Sends requests to an OpenAI-compatible server and times what streams back, at little cost."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import aiohttp
import msgspec

DONE = b"[DONE]"
NOTHING = msgspec.Raw(b"null")
READ_BYTES = 2**16


class Planned(msgspec.Struct, frozen=True):
    """A request to send: its body, seconds after the beginning, tokens that are expected."""

    body: bytes
    offset: float
    prompt_len: int
    output_len: int


class Outcome(msgspec.Struct):
    """What became of a request; times in seconds, `start` on the clock of `time.monotonic`.

    Attributes:
        ttft: from sending it to the first event with text.
        itl: between events with text; two in one packet came together.
        latency: from sending it to the end.
        output_len: tokens, as the server counts them; else events with text.
        error: why it failed, or empty.
    """

    start: float
    prompt_len: int
    latency: float = 0.0
    ttft: float = 0.0
    itl: list[float] = []
    output_len: int = 0
    text: str = ""
    error: str = ""


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = NOTHING


async def send_all(
    url: str,
    requests: Sequence[Planned],
    *,
    headers: dict[str, str],
    max_concurrency: int | None,
    begin: float,
    keep_text: bool,
) -> list[Outcome]:
    """Sends each request at its time, at most so many at once; what became of each, in order.

    Args:
        begin: when the offsets begin, on the clock of `time.monotonic`.
        keep_text: remember the answers.
    """
    free = asyncio.Semaphore(max_concurrency or max(1, len(requests)))
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Content-Type": "application/json"} | headers

    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers, read_bufsize=READ_BYTES
    ) as session:

        async def send(request: Planned) -> Outcome:
            await asyncio.sleep(begin + request.offset - time.monotonic())
            async with free:
                return await _send(session, url, request, keep_text=keep_text)

        return await asyncio.gather(*map(send, requests))


async def _send(
    session: aiohttp.ClientSession, url: str, request: Planned, *, keep_text: bool
) -> Outcome:
    outcome = Outcome(start=time.monotonic(), prompt_len=request.prompt_len, itl=[])
    try:
        async with session.post(url, data=request.body) as response:
            if response.status != 200:
                outcome.error = f"{response.status}: {(await response.text())[:500]}"
            else:
                await _read(response, outcome, keep_text=keep_text)
    except (aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    outcome.latency = time.monotonic() - outcome.start
    return outcome


async def _read(response: aiohttp.ClientResponse, outcome: Outcome, *, keep_text: bool) -> None:
    decode = msgspec.json.Decoder(_Event).decode
    last = outcome.start
    num_events = 0
    ended = False
    async for data in _events(response):
        now = time.monotonic()
        if data == DONE:
            ended = True
            continue
        event = decode(data)
        if event.error != NOTHING:
            outcome.error = bytes(event.error).decode()[:500]
            return
        if event.usage is not None:
            outcome.output_len = event.usage.completion_tokens
            outcome.prompt_len = event.usage.prompt_tokens
        for choice in event.choices:
            text = choice.text if choice.delta is None else choice.delta.content
            if text:
                if num_events:
                    outcome.itl.append(now - last)
                else:
                    outcome.ttft = now - outcome.start
                num_events += 1
                last = now
                if keep_text:
                    outcome.text += text
    outcome.output_len = outcome.output_len or num_events
    if not ended:
        outcome.error = "the stream ended without [DONE]"
    elif not num_events:
        # an answer of nothing but control tokens has no text: its first sign is its end
        outcome.ttft = time.monotonic() - outcome.start


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of each event; comments are passed over."""
    rest = b""
    async for packet in response.content.iter_any():
        *lines, rest = (rest + packet).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
