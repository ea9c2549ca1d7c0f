"""The API keys that let requests in; their file may be read again while the server runs."""

import hashlib
import hmac
import logging
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

OTHERS = 0o077  # permissions of everyone but the owner


class ApiKeys:
    """Keys from the command line and from a file, one a line; only their digests are kept.

    Args:
        given: keys of the command line.
        file: blank lines are left out.

    Raises:
        ValueError: a key is empty, or the file cannot be read or holds none.
    """

    def __init__(self, given: Sequence[str] = (), file: Path | None = None) -> None:
        if not all(given):
            raise ValueError("an API key is empty")
        self._given = tuple(map(_digest, given))
        self._file = file
        self._digests: tuple[bytes, ...] = ()
        self.read()

    def __bool__(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self._digests)

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def has_file(self) -> bool:
        return self._file is not None

    def read(self) -> None:
        """Reads the file again; where that fails the keys stay as they are.

        Raises:
            ValueError: it cannot be read, or holds no key.
        """
        found = [] if self._file is None else _read(self._file)
        self._digests = tuple(dict.fromkeys((*self._given, *map(_digest, found))))

    def match(self, key: str) -> str | None:
        """A name for the key that tells nothing of it, or None if it is not one of ours."""
        digest = _digest(key)
        # all are compared, so that the time tells nothing about which
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest.hex()[:16] if any(matches) else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _read(file: Path) -> list[str]:
    try:
        keys = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ValueError(f"the API keys in {file} cannot be read: {reason}") from None
    if mode & OTHERS:
        logger.warning("%s can be read by others than its owner: chmod 600 %s", file, file)
    keys = [key for key in keys if key]
    if not keys:
        raise ValueError(f"there is no API key in {file}")
    return keys
