"""The page's pure functions, in the browser that runs them."""

from typing import Any

import pytest


@pytest.fixture(scope="module")
def call(browser: Any, url: str) -> Any:
    """`call("markup.js", "blocks", text)`: what the function returns."""
    page = browser.new_page()
    page.goto(f"{url}/health")  # a page of the server that runs no scripts of its own

    def call(module: str, function: str, *args: Any) -> Any:
        code = "async ([m, f, args]) => (await import(`/page/${m}`))[f](...args)"
        return page.evaluate(code, [module, function, list(args)])

    return call


def test_blocks_cover_the_text_but_for_its_signs(call: Any) -> None:
    text = "# Head\nSome `code` and **bold**.\n\n```py\nx = 1\n\n```\nend"
    found = call("markup.js", "blocks", text)
    cut = [(b["kind"], text[b["start"] : b["end"]]) for b in found]
    assert cut == [
        ("heading", "Head"),
        ("text", "Some `code` and **bold**."),
        ("code", "x = 1\n"),
        ("text", "end"),
    ]
    assert found[2]["language"] == "py"
    marks = [(m["kind"], text[m["start"] : m["end"]]) for m in found[1]["marks"]]
    assert marks == [("text", "Some "), ("code", "code"), ("text", " and "), ("bold", "bold"),
                     ("text", ".")]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("", []),
        ("a\nb", ["text"]),
        ("```", ["code"]),
        ("```\nopen", ["code"]),
        ("```a\n```\n```b\n```", ["code", "code"]),
        ("~~~\n```\n~~~", ["code"]),
        ("a `b", ["text"]),
        ("#no head", ["text"]),
    ],
)
def test_markup_that_is_odd_or_open(call: Any, text: str, kinds: list[str]) -> None:
    found = call("markup.js", "blocks", text)
    assert [block["kind"] for block in found] == kinds
    assert all(0 <= block["start"] <= block["end"] <= len(text) for block in found)


def test_parts_of_a_character_share_a_piece(call: Any) -> None:
    tokens = [{"bytes": list(part)} for part in (b"a", b"\xf0\x9f", b"\x98\x80", b"b")]
    found = call("alignment.js", "piecesOfBytes", tokens)
    assert found["text"] == "a\N{GRINNING FACE}b"
    assert [(p["start"], p["end"], len(p["tokens"])) for p in found["pieces"]] == [
        (0, 1, 1),
        (1, 3, 2),
        (3, 4, 1),
    ]


def test_the_token_that_ends_an_answer_has_no_width(call: Any) -> None:
    content = [
        {"token": text, "bytes": list(text.encode()), "logprob": -0.1, "top_logprobs": []}
        for text in (" Hi", "!", "<|im_end|>")
    ]
    # the text may lack the space before the first word
    for text, places in [(" Hi!", [(0, 3), (3, 4), (4, 4)]), ("Hi!", [(0, 2), (2, 3), (3, 3)])]:
        found = call("alignment.js", "chatPieces", content, text)
        assert [(piece["start"], piece["end"]) for piece in found] == places


def test_offsets_of_completions_count_characters(call: Any) -> None:
    logprobs = {
        "tokens": ["\N{GRINNING FACE}", "b"],
        "token_logprobs": [-0.5, -1],
        "top_logprobs": [{"\N{GRINNING FACE}": -0.5}, {"b": -1, "c": -2}],
        "text_offset": [0, 1],
    }
    found = call("alignment.js", "completionPieces", logprobs, "\N{GRINNING FACE}b")
    assert [(piece["start"], piece["end"]) for piece in found] == [(0, 2), (2, 3)]
    assert len(found[1]["tokens"][0]["others"]) == 2


@pytest.mark.parametrize(
    ("logprob", "words"), [(0, "100%"), (-0.7, "50%"), (-4, "1.8%"), (-9999, "<0.1%")]
)
def test_probabilities_in_words(call: Any, logprob: float, words: str) -> None:
    assert call("alignment.js", "percent", logprob) == words


@pytest.mark.parametrize("count", [1, 64, 255, 4096, 100_000])
@pytest.mark.parametrize("width", [300, 1000])
def test_every_page_has_its_cell(call: Any, count: int, width: int) -> None:
    grid = call("page_map.js", "layout", count, width, 680, 20)
    rows = -(-count // grid["columns"])
    assert 1 <= grid["cell"] <= 20
    assert grid["columns"] * grid["cell"] <= width
    assert rows * grid["cell"] <= 680


def test_runs_become_pages(call: Any) -> None:
    runs = {"counts": [2, 1], "owners": [0, 7], "shared": [False, True]}
    found = call("page_map.js", "unrolled", runs)
    assert {name: list(values) for name, values in found.items()} == {
        "owners": [0, 0, 7],
        "shared": [0, 0, 1],
    }


def test_colours_of_neighbours_differ(call: Any) -> None:
    for dark in (True, False):
        colours = [call("colours.js", "colourOf", number, dark) for number in range(12)]
        assert all(0 <= value <= 255 for colour in colours for value in colour)
        assert len({tuple(colour) for colour in colours}) == 12
    assert call("colours.js", "oklch", 1, 0, 0) == [255, 255, 255]
    assert call("colours.js", "oklch", 0, 0, 0) == [0, 0, 0]


def test_speeds_are_what_happened_in_between(call: Any) -> None:
    def moment(time: float, total: int) -> dict[str, Any]:
        names = ("generation_tokens", "prompt_tokens", "steps", "step_seconds")
        first = {"sum": total * 0.5, "count": total}
        return {"time": time, "stats": dict.fromkeys(names, total), "first_token": first}

    found = call("speeds.js", "between", moment(10, 100), moment(12, 300))
    assert found == {"generation": 100, "prompt": 100, "step": 1000, "first": 500}
    still = call("speeds.js", "between", moment(10, 5), moment(12, 5))
    assert still == {"generation": 0, "prompt": 0, "step": None, "first": None}


def test_python_literals_are_pythons(call: Any) -> None:
    value = {
        "a": [1, 2.5, True, None],
        "b": "it's \"\n\\ é\N{GRINNING FACE}",
        "c": {"x": ["y"] * 40},
    }
    assert eval(call("snippets.js", "literal", value)) == value


def test_a_line_breaks_where_nothing_was(call: Any) -> None:
    points = [{"time": 40 + i, "value": value} for i, value in enumerate([1, 2, None, 4])]
    path = call("charts.js", "linePath", points, 4, 120, 50)
    assert path == "M114.0 37.0h0L116.0 25.0M120.0 1.0h0"
