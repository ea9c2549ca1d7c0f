"""GET /v1/models: what is served, under which names."""

from typing import Any

from aiohttp import web

from server.errors import model_not_found
from server.lifecycle import LIFECYCLE
from server.respond import json_response
from server.served_model import ServedModel


async def list_models(request: web.Request) -> web.Response:
    """The names that the model has."""
    model = request.app[LIFECYCLE].require_model()
    return json_response({"object": "list", "data": [_entry(name, model) for name in model.names]})


async def show_model(request: web.Request) -> web.Response:
    """One of the names that the model has; names may hold slashes."""
    model = request.app[LIFECYCLE].require_model()
    return json_response(_entry(check_model(request.match_info["id"], model.names), model))


def check_model(name: str | None, names: tuple[str, ...]) -> str:
    """The name to answer with; a request need not say it.

    Raises:
        ApiError: 404, another model is asked for.
    """
    if name is None:
        return names[0]
    if name not in names:
        raise model_not_found(name[:200], names)
    return name


def _entry(name: str, model: ServedModel) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(model.created),
        "owned_by": "ggjax",
        "root": model.names[0],
        "parent": None,
        "max_model_len": model.info.max_model_len,
        "meta": {"n_vocab": model.info.vocab_size},  # llama-server's place for it
    }
