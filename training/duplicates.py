"""Finds texts that were seen before, exactly or nearly, by hashes of their lines."""

import hashlib
import re

SHINGLE = 4  # lines
MAX_SEEN = 0.5  # of a text's shingles, in earlier texts together
MIN_SHINGLES = 4  # shorter texts only repeat exactly
BLANK = re.compile(r"\s+")


def digest(text: str) -> int:
    """64 bits that stand for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def shingles(text: str) -> set[int]:
    """A hash of every run of `SHINGLE` lines; blank lines, indents and spacing do not count."""
    lines = [line for line in (BLANK.sub(" ", line).strip() for line in text.split("\n")) if line]
    return {
        digest("\n".join(lines[start : start + SHINGLE]))
        for start in range(max(0, len(lines) - SHINGLE + 1))
    }


class Seen:
    """What was seen so far; grows with every text that is new."""

    def __init__(self) -> None:
        self._texts: set[int] = set()
        self._shingles: set[int] = set()

    def is_new(self, text: str) -> bool:
        """Whether a text is new; if it is, it is seen from now on."""
        whole = digest(BLANK.sub(" ", text))
        own = shingles(text)
        seen = len(own & self._shingles)
        near = len(own) >= MIN_SHINGLES and seen > MAX_SEEN * len(own)
        if near or whole in self._texts:
            return False
        self._texts.add(whole)
        self._shingles |= own
        return True
