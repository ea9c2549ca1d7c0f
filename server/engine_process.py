"""The engine process and our end of its socket pair: messages out, messages in, the end."""

import asyncio
import logging
import socket
import struct
from collections.abc import Sequence

import msgspec

from runtime.errors import EngineDied
from runtime.messages import (
    HEADER,
    MAX_MESSAGE_BYTES,
    FromEngine,
    Shutdown,
    ToEngine,
    decode_from_engine,
    encode,
)
from server.engine_exit import ending
from server.limits import ENGINE_EXIT_SECONDS

logger = logging.getLogger(__name__)


class EngineProcess:
    """A child that talks over a socket; made by `start_process`."""

    def __init__(
        self,
        child: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.child = child
        self._reader = reader
        self._writer = writer

    def send(self, *messages: ToEngine) -> None:
        """Writes messages; to a dead engine, nothing: whoever receives finds out."""
        if not self._writer.is_closing():
            self._writer.write(b"".join(map(encode, messages)))

    async def receive(self) -> FromEngine:
        """The next message.

        Raises:
            EngineDied: there is none, or it is broken.
        """
        try:
            (size,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            if size > MAX_MESSAGE_BYTES:
                raise EngineDied(f"a message of {size} bytes came from the engine")
            return decode_from_engine(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            code = await self.exit_code()
            raise EngineDied(f"the engine process {ending(code)}") from None
        except (msgspec.MsgspecError, struct.error) as error:
            raise EngineDied(f"a broken message came from the engine: {error}") from error

    async def exit_code(self) -> int | None:
        """How the process ended; None if it has closed its socket and goes on."""
        try:
            async with asyncio.timeout(ENGINE_EXIT_SECONDS):
                return await self.child.wait()
        except TimeoutError:
            return None

    async def stop(self) -> None:
        """Ends the process, however far it is."""
        self.send(Shutdown())
        self._writer.close()  # the end of the stream ends a busy engine as well
        if await self.exit_code() is None:
            logger.warning("the engine process does not end; killing it")
            self.child.kill()
            await self.child.wait()


async def start_process(command: Sequence[str]) -> EngineProcess:
    """Runs `command` with the number of its end of a socket pair appended."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        child = await asyncio.create_subprocess_exec(
            *command,
            str(theirs.fileno()),
            pass_fds=(theirs.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is the parent's to handle: it lets requests finish
        )
    return EngineProcess(child, reader, writer)
