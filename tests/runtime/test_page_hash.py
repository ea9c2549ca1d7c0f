"""A page's name tells all tokens up to its end, and who may share them."""

from runtime.page_hash import extend_hashes, root_hash

TOKENS = list(range(12))


def chain(tokens: list[int], *, salt: str = "", upto: int | None = None) -> list[bytes]:
    hashes: list[bytes] = []
    count = len(tokens) if upto is None else upto
    extend_hashes(hashes, tokens, cache_salt=salt, page_size=4, upto=count)
    return hashes


def test_only_full_pages_have_names():
    assert [len(chain(TOKENS, upto=n)) for n in (0, 3, 4, 7, 8, 12)] == [0, 0, 1, 1, 2, 3]


def test_names_grow_as_if_made_at_once():
    hashes: list[bytes] = []
    for upto in (3, 5, 9, 9, 12):
        extend_hashes(hashes, TOKENS, cache_salt="", page_size=4, upto=upto)
    assert hashes == chain(TOKENS)


def test_the_same_page_after_another_beginning_has_another_name():
    other = [99, *TOKENS[1:]]
    assert all(a != b for a, b in zip(chain(TOKENS), chain(other), strict=True))


def test_a_common_beginning_has_common_names():
    other = [*TOKENS[:8], 99, *TOKENS[9:]]
    assert [a == b for a, b in zip(chain(TOKENS), chain(other), strict=True)] == [True, True, False]


def test_salts_share_nothing():
    assert root_hash("a") != root_hash("b")
    assert not set(chain(TOKENS, salt="a")) & set(chain(TOKENS, salt="b"))
