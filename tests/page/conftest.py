"""A server of the demonstration model, a Chromium, and a page that must not complain."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

KEY = "sk-page"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# as in tests/model/test_demo.py: what is compiled for one is found by the other
FLAGS = ("--max-num-seqs", "4", "--max-num-batched-tokens", "128", "--max-model-len", "1024")
FLAGS += ("--dtype", "float32")


@pytest.fixture(scope="session")
def chromium() -> str:
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path")


@pytest.fixture(scope="session")
def url(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the server is; without a browser it is not started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("page")
    command = [sys.executable, "-m", "server", "serve", "demo", "--port", str(port), *FLAGS]
    command += ["--api-key", KEY]
    with open(folder / "log", "wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(40)


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:  # not there, or busy, or 503
            time.sleep(0.1)
    raise AssertionError(f"not healthy: {log.read_text()}")


# of a module: while Playwright runs, this thread has an event loop that asyncio's tests would meet
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    # Chromium's sandbox does not work for root
    flags = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


type OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, url: str) -> Iterator[OpenPage]:
    """`open_page("chat", width=360, key=None)`: the page, and no complaint of it when it ends.

    `may_fail`: a part of the message of the console that is expected.
    """
    contexts: list[Any] = []
    complaints: list[str] = []

    def open_page(
        view: str = "chat",
        *,
        width: int = 1280,
        height: int = 800,
        key: str | None = KEY,
        may_fail: str | None = None,
        **options: Any,
    ) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        if key is not None:
            # once, for the page may change it
            given = f"sessionStorage['ggjax-key'] ??= {key!r}"
            context.add_init_script(f"if (location.protocol === 'http:') {given}")

        def console(message: Any) -> None:
            expected = may_fail is not None and may_fail in message.text
            if message.type in ("error", "warning") and not expected:
                complaints.append(f"console: {message.text}")

        def asked(request: Any) -> None:
            if not request.url.startswith((f"{url}/", "data:")):
                complaints.append(f"asked {request.url}")

        context.on("console", console)
        context.on("weberror", lambda error: complaints.append(f"error: {error.error}"))
        context.on("request", asked)
        page = context.new_page()
        page.goto(f"{url}/#{view}")
        if key == KEY:
            page.wait_for_selector("#model.ready")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def endless() -> Callable[[Any], None]:
    """Makes the answers of a page go on to their longest."""

    def endless(page: Any) -> None:
        def change(route: Any) -> None:
            body = route.request.post_data_json | {"ignore_eos": True, "max_tokens": 900}
            route.continue_(post_data=json.dumps(body))

        page.route("**/v1/chat/completions", change)

    return endless


@pytest.fixture
def say() -> Callable[..., Any]:
    """Writes a message, sends it, and waits for the answer's end; the answer's element."""

    def say(page: Any, text: str, **settings: Any) -> Any:
        for name, value in settings.items():
            page.fill(f"#set-{name}", str(value))
        page.fill("#draft", text)
        page.press("#draft", "Enter")
        answer = page.locator("article.assistant").last
        answer.locator(".figures:not(:empty)").wait_for()
        return answer

    return say
