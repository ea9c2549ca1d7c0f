"""Who may ask: API keys for every route that is not listed as open, and our own host name."""

import ipaddress
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler
from yarl import URL

from server.api_keys import ApiKeys
from server.errors import foreign_host, invalid_key, too_many_requests
from server.limits import MAX_REQUESTS_PER_KEY

KEY_NAME = web.RequestKey("key_name", str)


@dataclass(frozen=True)
class Access:
    """The rule for one server.

    Attributes:
        keys: none lets everyone in.
        open_handlers: handlers that need no key; the rest do, unknown routes included.
        own_hosts: names that a request's Host must have; None for any. It keeps a web page from
            reaching a server on this machine through a name of its own (DNS rebinding).
        num_active: requests that are being answered, by the name of their key.
    """

    keys: ApiKeys
    open_handlers: frozenset[Handler]
    own_hosts: frozenset[str] | None
    num_active: Counter[str] = field(default_factory=Counter)


ACCESS = web.AppKey("access", Access)


def make_access(keys: ApiKeys, host: str, open_handlers: frozenset[Handler]) -> Access:
    """The rule for a server bound to `host`; with keys, or when others may reach it, any Host."""
    own = None
    if not keys and is_loopback(host):
        own = frozenset({"localhost", "127.0.0.1", "::1", host.lower()})
    return Access(keys, open_handlers, own)


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
        ApiError: 401, 403, or 429 where one of several keys asks for too much at once.
    """
    access = request.app[ACCESS]
    if access.own_hosts is not None and not _names(request.host, access.own_hosts):
        raise foreign_host()
    # by what the router found, never by the path's text
    if not access.keys or request.match_info.handler in access.open_handlers:
        return await handler(request)
    name = request[KEY_NAME] = _key_name(request, access.keys)
    if len(access.keys) > 1 and access.num_active[name] >= MAX_REQUESTS_PER_KEY:
        raise too_many_requests(MAX_REQUESTS_PER_KEY)
    access.num_active[name] += 1
    try:
        return await handler(request)
    finally:
        access.num_active[name] -= 1


def cache_salt(request: web.Request, salt: str | None) -> str:
    """The salt of the prefix cache: no key's callers can time what another's have cached."""
    name = request.get(KEY_NAME)
    if name is None or len(request.app[ACCESS].keys) == 1:
        return salt or ""
    return f"{name}:{salt or ''}"


def _key_name(request: web.Request, keys: ApiKeys) -> str:
    headers = request.headers.getall("Authorization", [])
    scheme, _, key = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    name = keys.match(key.strip(" "))
    if scheme.lower() != "bearer" or name is None:
        raise invalid_key()
    return name


def _names(host: str, own: frozenset[str]) -> bool:
    try:
        return (URL.build(scheme="http", authority=host).host or "").lower() in own
    except ValueError:
        return False
