"""Names for the content of full pages: each hash covers the page and everything before it."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np


def root_hash(cache_salt: str) -> bytes:
    """Where a chain starts; requests of different salts share nothing."""
    return hashlib.sha256(cache_salt.encode()).digest()


def extend_hashes(
    hashes: list[bytes], token_ids: Sequence[int], *, cache_salt: str, page_size: int, upto: int
) -> None:
    """Appends the hashes of the full pages among the first `upto` tokens that are missing.

    sha256, so that no prompt can be made that is answered from another's pages.
    """
    hashes.extend(_chain(hashes, token_ids, cache_salt, page_size, upto))


def _chain(
    hashes: list[bytes], token_ids: Sequence[int], cache_salt: str, page_size: int, upto: int
) -> Iterator[bytes]:
    parent = hashes[-1] if hashes else root_hash(cache_salt)
    for start in range(len(hashes) * page_size, upto - page_size + 1, page_size):
        tokens = np.asarray(token_ids[start : start + page_size], np.int32)
        parent = hashlib.sha256(parent + tokens.tobytes()).digest()
        yield parent
