"""GET /health…, /ping, /version, /load, /props, /metrics: what operators and their tools ask."""

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


async def load(request: web.Request) -> web.Response:
    """How many requests are being answered."""
    return json_response({"server_load": request.app[LIFECYCLE].num_active})


async def props(request: web.Request) -> web.Response:
    """What llama-server's clients ask before they begin: context, places, chat template."""
    model = request.app[LIFECYCLE].require_model()
    info = model.info
    return json_response(
        {
            "default_generation_settings": {"n_ctx": info.max_model_len},
            "total_slots": info.max_num_seqs,
            "model_alias": model.names[0],
            "chat_template": model.text.template.source or "",
            "modalities": {"vision": False, "audio": False},
            "build_info": f"ggjax {installed_version()}",
        }
    )


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
