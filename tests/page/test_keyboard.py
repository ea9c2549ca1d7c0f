"""Everything without a mouse."""

from typing import Any

from playwright.sync_api import expect


def focus(page: Any) -> str:
    found: str = page.evaluate("document.activeElement.id || document.activeElement.className")
    return found


def test_a_chat_by_keyboard_alone(open_page: Any) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    assert focus(page) == "skip"
    page.keyboard.press("Tab")
    assert focus(page) == "tab-chat"
    for _ in range(20):
        if focus(page) == "draft":
            break
        page.keyboard.press("Tab")
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none", focus(page)
    assert focus(page) == "draft"
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("#draft") == "one\ntwo"
    page.keyboard.press("Enter")
    expect(page.locator("article.assistant .token").nth(1)).to_be_visible()  # two to step between
    page.keyboard.press("Escape")
    page.wait_for_selector("article.assistant .figures:not(:empty)")

    for _ in range(9):
        page.keyboard.press("Shift+Tab")
        if focus(page) == "answer":
            break
    assert focus(page) == "answer"
    page.keyboard.press("ArrowRight")
    assert focus(page).startswith("token")
    assert page.is_visible("#token-card")
    first = page.evaluate("document.activeElement.dataset.piece")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.piece") != first
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.dataset.piece") == first
    described = page.evaluate("document.activeElement.getAttribute('aria-describedby')")
    assert described == "token-card"
    page.keyboard.press("Escape")
    assert page.is_hidden("#token-card")
    assert focus(page) == "answer"


def test_escape_stops_an_answer(open_page: Any, endless: Any) -> None:
    page = open_page()
    endless(page)
    page.focus("#draft")
    page.keyboard.type("go on")
    page.keyboard.press("Enter")
    page.wait_for_selector("article.assistant .token")
    page.keyboard.press("Escape")
    page.wait_for_selector("article.assistant .figures:text('stopped')")


def test_views_are_tabs(open_page: Any) -> None:
    page = open_page()
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panel-completion")).to_be_visible()
    expect(page.locator("#panel-chat")).to_be_hidden()
    assert focus(page) == "tab-completion"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#panel-live")).to_be_visible()
    expect(page.locator("#playground")).to_be_hidden()
    assert page.get_attribute("#tab-live", "aria-selected") == "true"


def test_a_completion_by_keyboard(open_page: Any) -> None:
    page = open_page("completion")
    page.fill("#set-max_tokens", "6")
    page.fill("#prompt", "def fib(n):\n")
    page.press("#prompt", "Control+Enter")
    page.wait_for_selector("#continuation .figures:not(:empty)")
    count = page.locator("#continuation .token").count()
    assert 0 < count <= 6
    page.locator("#continuation .token").first.hover()
    assert "%" in page.inner_text("#token-card")
    written = page.text_content("#continuation pre")
    page.get_by_role("button", name="Go on from here").click()
    expect(page.locator("#prompt")).to_have_value(f"def fib(n):\n{written}")
    page.wait_for_selector("#continuation .figures:not(:empty)")


def test_the_settings_of_a_phone_open_and_close(open_page: Any) -> None:
    page = open_page(width=360, height=740)
    assert page.is_hidden("#side")
    page.focus("#side-button")
    page.keyboard.press("Enter")
    assert page.is_visible("#side")
    assert page.get_attribute("#side-button", "aria-expanded") == "true"
    page.keyboard.press("Escape")
    assert page.is_hidden("#side")
    assert focus(page) == "side-button"


def test_every_field_and_button_has_a_name(open_page: Any) -> None:
    page = open_page()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, textarea, button")]
            .filter(one => !one.labels?.length && !one.ariaLabel && !one.textContent.trim())
            .map(one => one.outerHTML)"""
    )
    assert unnamed == []
