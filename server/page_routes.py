"""GET / and /page/…: the page with the playground and the live view; its files ship with ggjax."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from aiohttp import web

TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
INDEX = "index.html"
DOCS = "docs.html"
HEADERS = {
    # all that the page needs comes from here, and nobody else may frame it
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked again each time, and answered 304
}


@dataclass(frozen=True)
class PageFile:
    """One file of the page."""

    body: bytes
    content_type: str
    etag: str


def read_page() -> dict[str, PageFile]:
    """All files of the page by their names."""
    found = {}
    for file in (files("server") / "page").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in TYPES:
            body = file.read_bytes()
            etag = hashlib.sha256(body).hexdigest()[:32]
            found[file.name] = PageFile(body, TYPES[suffix], etag)
    return found


async def show_page(request: web.Request) -> web.Response:
    """Chats, completions and a live view; a browser cannot send a key with an address."""
    return _answer(request, request.app[PAGE][INDEX])


async def show_docs(request: web.Request) -> web.Response:
    """The routes for people, read from /openapi.json."""
    return _answer(request, request.app[PAGE][DOCS])


async def show_page_file(request: web.Request) -> web.Response:
    """What the pages consist of."""
    file = request.app[PAGE].get(request.match_info["name"])
    if file is None:
        raise web.HTTPNotFound
    return _answer(request, file)


def _answer(request: web.Request, file: PageFile) -> web.Response:
    known = any(tag.value in (file.etag, "*") for tag in request.if_none_match or ())
    response = web.Response(
        status=304 if known else 200, body=None if known else file.body, headers=HEADERS
    )
    response.etag = file.etag
    if not known:
        response.content_type = file.content_type
        response.charset = "utf-8"
    return response


PAGE = web.AppKey("page", Mapping[str, PageFile])
