"""The chat as people use it: answers stream, tokens tell, messages change, errors are words."""

import json
from typing import Any

import pytest
from playwright.sync_api import expect

QUESTION = "Write a Python function that merges two sorted lists."
# What a server would stream; the text of a model is never markup.
EVIL = "<img src=x onerror=\"document.title='owned'\">\n```html\n<script>alert(1)</script>\n```"


def events(*deltas: str, finish: str | None = "stop", done: bool = True) -> str:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None} for text in deltas]
    if finish is not None:
        choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    lots = [f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices]
    return "".join(lots) + ("data: [DONE]\n\n" if done else "")


def reply(page: Any, body: str) -> None:
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
    )


@pytest.mark.parametrize("width", [1280, 360])
def test_an_answer_can_be_watched_as_it_comes(open_page: Any, say: Any, width: int) -> None:
    page = open_page(width=width)
    page.evaluate(
        """() => {
            window.lengths = new Set();
            const look = () => {
                const body = document.querySelector("article.assistant .answer");
                if (body) window.lengths.add(body.textContent.length);
                requestAnimationFrame(look);
            };
            look();
        }"""
    )
    page.fill("#draft", QUESTION)
    page.press("#draft", "Enter")
    page.wait_for_selector("#stop:visible")
    page.wait_for_selector("article.assistant[aria-busy=true]")
    page.wait_for_selector("article.assistant .figures:not(:empty)")
    assert page.evaluate("window.lengths.size") > 5
    assert page.locator("article.assistant").get_attribute("aria-busy") == "false"
    assert "tokens/s" in page.inner_text("article.assistant .figures")
    assert page.is_visible("#send") and page.is_hidden("#stop")
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)


def test_a_token_tells_its_probability_and_what_else_there_was(open_page: Any, say: Any) -> None:
    page = open_page()
    answer = say(page, QUESTION, max_tokens=16)
    tokens = answer.locator(".token")
    assert 8 <= tokens.count() <= 17
    tokens.nth(3).hover()
    card = page.locator("#token-card")
    card.wait_for()
    assert "%" in card.inner_text()
    assert 5 <= card.locator("li").count() <= 6
    assert card.locator("li.chosen").count() == 1
    shares = card.locator("li").evaluate_all(
        "lines => lines.map(line => Number(line.style.getPropertyValue('--share')))"
    )
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.001
    page.mouse.move(5, 5)
    card.wait_for(state="hidden")
    doubts = tokens.evaluate_all(
        "all => all.map(token => Number(token.style.getPropertyValue('--doubt')))"
    )
    assert all(0 <= doubt <= 1 for doubt in doubts) and len(set(doubts)) > 1


def test_without_probabilities_none_are_asked_for(open_page: Any, say: Any) -> None:
    page = open_page()
    page.uncheck("text=Token probabilities")
    with page.expect_request("**/v1/chat/completions") as asked:
        answer = say(page, QUESTION, max_tokens=8)
    assert "logprobs" not in asked.value.post_data_json
    assert answer.locator(".token").count() == 0
    assert answer.locator(".answer").inner_text().strip()


def test_settings_become_fields(open_page: Any, say: Any) -> None:
    page = open_page()
    with page.expect_request("**/v1/chat/completions") as asked:
        say(page, "hi", system="Be brief.", max_tokens=3, top_k=7, seed=5, stop="\\n\\n\nend",
            presence_penalty=0.5, temperature=0.2)  # fmt: skip
    body = asked.value.post_data_json
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]
    wanted = {"max_tokens": 3, "top_k": 7, "seed": 5, "stop": ["\n\n", "end"], "stream": True,
              "presence_penalty": 0.5, "temperature": 0.2, "top_logprobs": 5}  # fmt: skip
    assert {name: body[name] for name in wanted} == wanted
    assert "repetition_penalty" not in body
    page.reload()
    assert page.input_value("#set-top_k") == "7"
    assert page.locator("article").count() == 2


def test_messages_can_be_edited_and_answers_asked_for_again(open_page: Any, say: Any) -> None:
    page = open_page()
    say(page, "first", max_tokens=4)
    say(page, "second", max_tokens=4)
    assert page.locator("article").count() == 4
    page.locator("article.assistant").last.get_by_role("button", name="Retry").click()
    page.locator("article.assistant .figures:not(:empty)").nth(1).wait_for()
    assert page.locator("article").count() == 4
    page.locator("article.user").first.get_by_role("button", name="Edit").click()
    page.fill("article.user textarea", "changed")
    page.get_by_role("button", name="Send again").click()
    page.wait_for_selector("article.assistant .figures:not(:empty)")
    assert page.locator("article").count() == 2
    assert page.inner_text("article.user .answer") == "changed"
    page.click("text=New chat")
    assert page.locator("article").count() == 0
    assert page.is_visible("#opening")


def test_an_answer_can_be_stopped(open_page: Any, endless: Any) -> None:
    page = open_page()
    endless(page)
    page.fill("#draft", QUESTION)
    page.press("#draft", "Enter")
    page.wait_for_selector("article.assistant .token")
    page.click("#stop")
    page.wait_for_selector("article.assistant .figures:text('stopped')")
    assert page.is_visible("#send")
    assert page.evaluate("document.activeElement.id") == "draft"


def test_the_prompt_is_shown_as_the_model_sees_it(open_page: Any, say: Any) -> None:
    page = open_page()
    page.fill("#draft", "hi there")
    page.click("#fold-prompt summary")
    page.wait_for_selector("#prompt-view .special")
    assert page.locator("#prompt-view .special").first.inner_text() == "<|im_start|>"
    assert "hi there" in page.inner_text("#prompt-view")
    count = page.locator("#prompt-view .token").count()
    assert page.inner_text("#prompt-count") == f"{count} tokens"
    assert page.inner_text("#prompt-note") == f"{1024 - count} more fit."
    page.fill("#draft", "hi there, and more")
    expect(page.locator("#prompt-view .token")).not_to_have_count(count)
    page.locator("#prompt-view .token").first.hover()
    assert "special" in page.inner_text("#token-card")


def test_the_same_request_as_code(open_page: Any) -> None:
    page = open_page()
    page.fill("#draft", "it's")
    page.click("#fold-code summary")
    expect(page.locator("#snippet")).to_contain_text("it'")
    command = page.inner_text("#snippet")
    assert command.startswith("curl ") and "it'\\''s" in command
    assert "sk-page" not in command and "$API_KEY" in command
    page.check("input[value=python]")
    program = page.inner_text("#snippet")
    compile(program, "snippet", "exec")
    assert "client.chat.completions.create(" in program and 'model="demo"' in program


def test_what_a_model_writes_is_text(open_page: Any, say: Any) -> None:
    page = open_page()
    reply(page, events(EVIL[:9], EVIL[9:]))
    answer = say(page, "<b>bold</b>")
    assert answer.locator("img, script").count() == 0
    assert page.title() == "ggjax"
    assert answer.locator(".code pre").inner_text() == "<script>alert(1)</script>"
    assert "<img src=x" in answer.inner_text()
    assert page.inner_text("article.user .answer") == "<b>bold</b>"


def test_errors_are_words(open_page: Any, say: Any) -> None:
    page = open_page(may_fail="400")
    page.fill("#set-max_tokens", "5000")
    page.fill("#draft", "hi")
    page.press("#draft", "Enter")
    notice = page.locator("article [role=alert]")
    notice.wait_for()
    assert "1024 tokens" in notice.inner_text()
    assert page.is_visible("#send")


def test_a_stream_that_breaks_off_is_told(open_page: Any) -> None:
    page = open_page()
    reply(page, events("half an ans", finish=None, done=False))
    page.fill("#draft", "hi")
    page.press("#draft", "Enter")
    page.wait_for_selector("article [role=alert]:text('connection broke off')")
    assert "half an ans" in page.inner_text("article.assistant .answer")


def test_an_error_within_a_stream_is_told(open_page: Any) -> None:
    page = open_page()
    error = {"message": "the engine has stopped", "type": "server_error", "param": None}
    broken = events("half", finish=None, done=False) + f"data: {json.dumps({'error': error})}\n\n"
    reply(page, broken)
    page.fill("#draft", "hi")
    page.press("#draft", "Enter")
    page.wait_for_selector("article [role=alert]:text('The engine has stopped')")


def test_a_wrong_key_is_told_and_can_be_mended(open_page: Any, say: Any) -> None:
    page = open_page(key="sk-wrong", may_fail="401")
    page.wait_for_selector("#model.failed:text('does not know this API key')")
    page.fill("#draft", "hi")
    page.press("#draft", "Enter")
    page.get_by_role("button", name="Enter a key").click()
    page.fill("#key", "sk-page")
    page.press("#key", "Enter")
    page.wait_for_selector("#model.ready")
    answer = say(page, "again", max_tokens=3)
    assert "tokens" in answer.locator(".figures").inner_text()
    kept = page.evaluate("JSON.stringify([{...localStorage}, document.cookie])")
    assert "sk-page" not in kept


def test_a_key_that_is_missing_is_asked_for(open_page: Any) -> None:
    page = open_page(key=None, may_fail="401")
    page.wait_for_selector("#model.failed:text('asks for an API key')")
