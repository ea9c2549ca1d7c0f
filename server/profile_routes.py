"""POST /start_profile and /stop_profile: traces of steps, where the operator allows them."""

from aiohttp import web

from runtime.messages import StartProfile, StopProfile
from server.errors import profile_conflict, profiling_is_off
from server.lifecycle import LIFECYCLE
from server.respond import json_response
from server.served_model import ServedModel


async def start_profile(request: web.Request) -> web.Response:
    """Starts a trace; 409 if one runs, 404 without --profile-dir."""
    model = request.app[LIFECYCLE].require_model()
    folder = _folder(model)
    await _profile(model, StartProfile(folder))
    return json_response({"status": "profiling", "profile_dir": folder})


async def stop_profile(request: web.Request) -> web.Response:
    """Ends the trace and answers when it is written; 409 if none runs."""
    model = request.app[LIFECYCLE].require_model()
    folder = _folder(model)
    await _profile(model, StopProfile())
    return json_response({"status": "written", "profile_dir": folder})


def _folder(model: ServedModel) -> str:
    if model.profile_dir is None:
        raise profiling_is_off()
    return str(model.profile_dir)


async def _profile(model: ServedModel, message: StartProfile | StopProfile) -> None:
    done = await model.engine.profile(message)
    if done.error is not None:
        raise profile_conflict(done.error)
