"""Who may ask: API keys for every route that is not listed as open, and our own host name."""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler
from yarl import URL

from server.errors import foreign_host, invalid_key

KEY_INDEX = web.RequestKey("key_index", int)


@dataclass(frozen=True)
class Access:
    """The rule for one server.

    Attributes:
        key_digests: sha256 of each key; none lets everyone in.
        open_handlers: handlers that need no key; the rest do, unknown routes included.
        own_hosts: names that a request's Host must have; None for any. It keeps a web page from
            reaching a server on this machine through a name of its own (DNS rebinding).
    """

    key_digests: tuple[bytes, ...]
    open_handlers: frozenset[Handler]
    own_hosts: frozenset[str] | None


ACCESS = web.AppKey("access", Access)


def make_access(keys: Sequence[str], host: str, open_handlers: frozenset[Handler]) -> Access:
    """The rule for a server bound to `host`; with keys, or when others may reach it, any Host."""
    own = None
    if not keys and is_loopback(host):
        own = frozenset({"localhost", "127.0.0.1", "::1", host.lower()})
    digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)
    return Access(digests, open_handlers, own)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@web.middleware
async def check_access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses whoever may not ask, before the body is read.

    Raises:
        ApiError: 401 or 403.
    """
    access = request.app[ACCESS]
    if access.own_hosts is not None and not _names(request.host, access.own_hosts):
        raise foreign_host()
    # by what the router found, never by the path's text
    is_open = request.match_info.handler in access.open_handlers
    if access.key_digests and not is_open:
        request[KEY_INDEX] = _matching_key(request, access.key_digests)
    return await handler(request)


def cache_salt(request: web.Request, salt: str | None) -> str:
    """The salt of the prefix cache: no key's callers can time what another's have cached."""
    index = request.get(KEY_INDEX)
    if index is None or len(request.app[ACCESS].key_digests) == 1:
        return salt or ""
    return f"{index}:{salt or ''}"


def _matching_key(request: web.Request, digests: tuple[bytes, ...]) -> int:
    headers = request.headers.getall("Authorization", [])
    scheme, _, key = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    given = hashlib.sha256(key.strip(" ").encode("utf-8", "surrogateescape")).digest()
    # all are compared, so that the time tells nothing about which
    matches = [hmac.compare_digest(given, digest) for digest in digests]
    if scheme.lower() != "bearer" or True not in matches:
        raise invalid_key()
    return matches.index(True)


def _names(host: str, own: frozenset[str]) -> bool:
    try:
        return (URL.build(scheme="http", authority=host).host or "").lower() in own
    except ValueError:
        return False
