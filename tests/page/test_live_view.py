"""The live view fills while requests run, and lets go of the server when nobody looks."""

import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect


@pytest.fixture
def load(url: str) -> Iterator[None]:
    """Five requests, of which four run at once; they end with the test."""
    stop = threading.Event()

    def ask() -> None:
        body = {"prompt": "import os\n" * 60, "max_tokens": 700, "stream": True}
        headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-page"}
        data = json.dumps(body | {"ignore_eos": True}).encode()
        request = urllib.request.Request(f"{url}/v1/completions", data, headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            for _ in response:
                if stop.is_set():
                    return

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("width", [1280, 360])
def test_it_fills(open_page: Any, load: None, width: int) -> None:
    page = open_page("live", width=width)
    page.wait_for_selector("#requests tr")
    expect(page.locator(".chart .figure").first).to_have_text(re.compile("[1-9]"))
    page.wait_for_selector("#buckets .bucket")
    assert "demo" in page.inner_text("#facts")
    assert "plain XLA" in page.inner_text("#facts")
    expect(page.locator("#requests tr")).to_have_count(5)
    assert "4 running, 1 waiting" in page.inner_text("#requests-count")
    assert "M" in page.get_attribute(".chart .line", "d")
    colours = page.evaluate(
        """() => {
            const map = document.querySelector("#page-map");
            const { data } = map.getContext("2d").getImageData(0, 0, map.width, map.height);
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )
    assert colours >= 6  # gaps, free, four requests
    assert "in use" in page.get_attribute("#page-map", "aria-label")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_request_shows_its_pages_and_a_page_its_request(open_page: Any, load: None) -> None:
    page = open_page("live")
    page.wait_for_selector("#requests tr")
    expect(page.locator("#pages-count")).to_have_text(re.compile("^[1-9]"))
    picture = "document.querySelector('#page-map').toDataURL()"
    number = page.inner_text("#requests .request").strip()
    page.hover("#page-map", position={"x": 4, "y": 4})
    page.wait_for_selector("#page-note:text('Page 1:')")
    before = page.evaluate(picture)
    page.focus("#requests tr:nth-child(2) .request")
    assert page.evaluate(picture) != before
    assert number.isdigit()


def test_nobody_looks_and_no_stream_is_open(open_page: Any) -> None:
    page = open_page("chat")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: asked.append(f"closed {request.url}"))
    page.click("#tab-live")
    page.wait_for_selector("#facts dd")
    page.click("#tab-chat")
    page.wait_for_timeout(100)
    lives = [one for one in asked if one.endswith("/live")]
    assert len(lives) == 2 and lives[1].startswith("closed")


def test_without_a_key_it_says_so(open_page: Any) -> None:
    page = open_page("live", key=None, may_fail="401")
    page.wait_for_selector("#live-notice:text('asks for an API key')")
