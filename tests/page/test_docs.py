"""The page of the routes: it asks for the key, and says what bodies and their objects hold."""

from typing import Any

import pytest
from playwright.sync_api import expect


@pytest.mark.parametrize("width", [390, 1280])
def test_the_routes_are_told_to_who_has_the_key(open_page: Any, url: str, width: int) -> None:
    page = open_page(width=width, key=None, may_fail="401")
    page.goto(f"{url}/docs")
    expect(page.locator("#words")).to_contain_text("API key")
    page.fill("#key", "sk-page")
    page.keyboard.press("Enter")
    chat = page.locator("details").filter(has=page.get_by_text("/v1/chat/completions", exact=True))
    chat.locator("summary").click()
    expect(chat.locator("table").first.locator("tr").first).to_have_text(
        "messagesrequiredlist of Message"
    )
    for name in ("Message", "TextPart", "StreamOptions", "Tool", "FunctionTool"):
        expect(chat.get_by_role("heading", name=name, exact=True)).to_have_count(1)
    expect(chat.locator("h3:text-is('Message') + table")).to_contain_text(
        "contentstring or list of TextPart"
    )
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#errors table")).to_contain_text("429")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
