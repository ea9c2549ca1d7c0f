"""A server around the fake engine: in this process for most tests, as its own for some."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from benchmarks.make_gguf import write_gguf
from runtime.config import RuntimeConfig
from server.api_keys import ApiKeys
from server.app import make_app
from server.lifecycle import LIFECYCLE
from server.served_model import ModelOptions

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
ROOT = Path(__file__).resolve().parents[2]

type Client = TestClient[web.Request, web.Application]
type StartServer = Callable[..., Awaitable[Client]]


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def fake_options(tiny_gguf: Path) -> Callable[..., ModelOptions]:
    def make(
        *flags: object,
        names: tuple[str, ...] = (),
        profile_dir: Path | None = None,
        chat_template: Path | None = None,
        **config: Any,
    ) -> ModelOptions:
        # -c: with the script's path, its folder would be searched for packages, not the root
        code = (
            f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); "
            f"runpy.run_path({str(FAKE_ENGINE)!r}, run_name='__main__')"
        )
        return ModelOptions(
            config=RuntimeConfig(**{"model": str(tiny_gguf)} | config),
            names=names,
            profile_dir=profile_dir,
            chat_template=chat_template,
            engine_command=(sys.executable, "-c", code, *map(str, flags)),
        )

    return make


@asynccontextmanager
async def serving(
    options: ModelOptions, *, api_keys: tuple[str, ...] = (), wait: bool = True
) -> AsyncIterator[Client]:
    """A client of a server, by default of one that is ready."""
    app = make_app(options, api_keys=ApiKeys(api_keys))
    async with TestClient(TestServer(app)) as client:  # which cancels handlers, as `serve` does
        lifecycle = app[LIFECYCLE]
        async with asyncio.timeout(30):
            while wait and not lifecycle.is_ready and lifecycle.exit_code is None:
                await asyncio.sleep(0.01)
        yield client


@asynccontextmanager
async def starter(fake_options: Callable[..., ModelOptions]) -> AsyncIterator[StartServer]:
    """Starts servers that end with it."""
    async with AsyncExitStack() as servers:

        async def start(
            *flags: object, api_keys: tuple[str, ...] = (), wait: bool = True, **options: Any
        ) -> Client:
            server = serving(fake_options(*flags, **options), api_keys=api_keys, wait=wait)
            return await servers.enter_async_context(server)

        yield start


@pytest.fixture
async def start_server(fake_options: Callable[..., ModelOptions]) -> AsyncIterator[StartServer]:
    """`await start_server("--delay", 0.01, api_keys=("k",))`: a client of a ready server."""
    async with starter(fake_options) as start:
        yield start


@pytest.fixture(scope="module")
async def start_for_all(fake_options: Callable[..., ModelOptions]) -> AsyncIterator[StartServer]:
    """The same for all tests of a file, which leave the server as it was."""
    async with starter(fake_options) as start:
        yield start


@pytest.fixture(scope="module")
async def client(start_for_all: StartServer) -> Client:
    """A client of a server for all tests of a file."""
    return await start_for_all()
