"""The killable process that tries grammars before their requests are admitted, from the parent."""

import asyncio
import hashlib
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import msgspec

from runtime.errors import RequestError
from runtime.structured_outputs import PARAM, StructuredOutputs
from runtime.text import grammar_worker
from runtime.text.grammar_worker import GrammarReply
from runtime.text.worker_process import KillableWorker

DEADLINE = 2.0  # seconds a grammar may take
MAX_REPLY_BYTES = 64 << 10
MAX_REMEMBERED = 1024  # hashes of accepted grammars

_decoder = msgspec.msgpack.Decoder(GrammarReply)


class GrammarChecker:
    """Says whether a form of answer can be served, before anything else is done for it.

    Used as `with GrammarChecker() as checker:`. `check` may be called from several threads,
    `check_async` leaves the event loop free.

    Args:
        deadline: seconds of wall time that one grammar may take.
    """

    def __init__(self, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._worker = KillableWorker(grammar_worker.__name__, deadline=deadline)
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    def check(self, wanted: StructuredOutputs, *, param: str | None = None) -> None:
        """Returns if an answer of this form can be generated.

        Args:
            param: the field of the request that asks for it, if not `structured_outputs`.

        Raises:
            RequestError: code "invalid_schema" (with the compiler's words) or
                "schema_too_complex" (it takes too long or too much memory).
            WorkerClosed: `close` was called.
        """
        message = msgspec.msgpack.encode(wanted)
        digest = hashlib.sha256(message).digest()
        if self._is_known(digest):
            return
        own_param = f"{PARAM}.{wanted.kind}"
        reply = self._exchange(message, own_param)
        if reply.outcome != "accepted":
            text = reply.message if param is None else reply.message.replace(own_param, param, 1)
            raise RequestError(text, param=param or reply.param, code=reply.code)
        self._remember(digest)

    async def check_async(self, wanted: StructuredOutputs, *, param: str | None = None) -> None:
        """`check` without blocking the event loop."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, lambda: self.check(wanted, param=param))

    def close(self) -> None:
        """Ends the child."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, message: bytes, param: str) -> GrammarReply:
        try:
            return self._ask(message)
        except TimeoutError:
            problem = f"it takes longer than {self._deadline:g} s to compile"
        except ConnectionError:
            problem = "it takes too much memory to compile"
        return GrammarReply("refused", f"{param}: {problem}", param, "schema_too_complex")

    def _ask(self, message: bytes) -> GrammarReply:
        try:
            return self._worker.exchange(message, MAX_REPLY_BYTES, _decoder.decode)
        except ConnectionError:
            # The memory may have been that of the grammars before: once more, in a fresh child.
            return self._worker.exchange(message, MAX_REPLY_BYTES, _decoder.decode)

    def _is_known(self, digest: bytes) -> bool:
        with self._lock:
            if digest not in self._accepted:
                return False
            self._accepted.move_to_end(digest)
            return True

    def _remember(self, digest: bytes) -> None:
        with self._lock:
            self._accepted[digest] = None
            while len(self._accepted) > MAX_REMEMBERED:
                self._accepted.popitem(last=False)
