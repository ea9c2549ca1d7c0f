"""Where a text stops does not depend on how it was cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.text.stop_strings import StopMatcher

LETTERS = st.text(alphabet="ab\n", max_size=30)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=5), max_size=4)


def run(
    stops: Sequence[str], pieces: Sequence[str], include: bool = False
) -> tuple[str, str | None]:
    matcher = StopMatcher(stops, include)
    results = [*map(matcher.push, pieces), matcher.flush()]
    return "".join(result.text for result in results), results[-1].stopped


def by_definition(stops: Sequence[str], text: str, include: bool) -> tuple[str, str | None]:
    """The stop that is complete first; of those, the longest."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@given(stops=STOPS, pieces=st.lists(LETTERS, max_size=12), include=st.booleans())
def test_the_result_is_that_of_the_whole_text(
    stops: list[str], pieces: list[str], include: bool
) -> None:
    assert run(stops, pieces, include) == by_definition(stops, "".join(pieces), include)


@given(stops=STOPS, pieces=st.lists(LETTERS, max_size=12))
def test_only_a_possible_beginning_is_held_back(stops: list[str], pieces: list[str]) -> None:
    matcher, sent, shown = StopMatcher(stops), "", ""
    for piece in pieces:
        result = matcher.push(piece)
        sent, shown = sent + piece, shown + result.text
        if result.stopped is not None:
            break
        beginnings = [stop[:n] for stop in stops for n in range(1, len(stop))]
        held = max((b for b in beginnings if sent.endswith(b)), key=len, default="")
        assert shown == sent.removesuffix(held)


def test_nothing_follows_a_stop() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("oneEN").text == "one"
    assert (matcher.push("Dtwo").text, matcher.push("three").stopped) == ("", "END")
    assert (matcher.flush().text, matcher.flush().stopped) == ("", "END")


def test_every_split_of_a_text_gives_the_same() -> None:
    text = "if x:\n    passs\n\n\ndef"
    for cut in range(len(text)):
        assert run(["ss\n\n", "\n\ndef"], [text[:cut], text[cut:]]) == ("if x:\n    pas", "ss\n\n")


def test_without_stops_text_passes() -> None:
    assert run([], ["a", "b"]) == ("ab", None)


def test_work_grows_with_the_text_alone() -> None:
    matcher = StopMatcher(["a" * 50 + "b"])
    steps = 0

    class Counting(dict[str, object]):
        def __contains__(self, key: object) -> bool:
            nonlocal steps
            steps += 1
            return super().__contains__(key)

    node = matcher._root
    while node.children:
        (child,) = node.children.values()
        node.children = Counting(node.children)  # type: ignore[assignment]
        node = child
    for _ in range(200):
        matcher.push("a" * 10)
    assert steps <= 3 * 2000


@pytest.mark.parametrize(
    ("stops", "problem"), [(["x"] * 17, "at most 16"), (["a", ""], "must not be empty")]
)
def test_bad_stops_are_refused(stops: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        StopMatcher(stops)
