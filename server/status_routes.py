"""GET /health, /health/live, /ping, /version, /metrics: what operators and their tools ask."""

import importlib.metadata

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from server.errors import unavailable
from server.lifecycle import LIFECYCLE
from server.metrics import METRICS
from server.respond import json_response


async def health(request: web.Request) -> web.Response:
    """200 when a request would be taken, else 503; no engine work."""
    request.app[LIFECYCLE].require_model()
    return web.Response()


async def live(request: web.Request) -> web.Response:
    """200 unless the server cannot go on."""
    if request.app[LIFECYCLE].exit_code is not None:
        raise unavailable("engine_died", "the engine has stopped", Connection="close")
    return web.Response()


async def version(request: web.Request) -> web.Response:
    """The version of ggjax."""
    return json_response({"version": installed_version()})


async def metrics(request: web.Request) -> web.Response:
    """Prometheus' text format."""
    body = generate_latest(request.app[METRICS].registry)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def installed_version() -> str:
    """The distribution's version; a checkout that is not installed has none."""
    try:
        return importlib.metadata.version("ggjax")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
