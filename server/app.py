"""The web application: its routes, its middleware, the model that lives as long as it does."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler

from models.errors import ModelFileError
from server.access import ACCESS, check_access, make_access
from server.api_keys import ApiKeys
from server.chat import chat_completions
from server.completions import completions
from server.connections import GUARD, ConnectionGuard
from server.embeddings import embeddings
from server.engine_exit import EXIT_ENGINE, EXIT_USAGE, EngineNotStarted
from server.errors import internal_problem, problem_of
from server.hub import ModelNotFound
from server.infill import infill
from server.lifecycle import LIFECYCLE, Lifecycle
from server.limits import MAX_BODY_BYTES
from server.live_feed import LiveFeed
from server.live_route import LIVE_FEED, watch
from server.metrics import METRICS, Metrics
from server.models_route import list_models, show_model
from server.openapi import make_spec
from server.operations import OPERATIONS, SPEC, openapi
from server.page_routes import PAGE, read_page, show_docs, show_page, show_page_file
from server.profile_routes import start_profile, stop_profile
from server.render_routes import apply_template, render_chat, render_completion
from server.request_id import add_request_id, take_request_id
from server.served_model import ModelOptions, open_model
from server.status_routes import health, installed_version, live, load, metrics, props, version
from server.throughput_log import log_throughput
from server.tokenize_routes import detokenize, tokenize

logger = logging.getLogger(__name__)

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/chat/completions", chat_completions),
    ("POST", "/v1/completions", completions),
    ("POST", "/infill", infill),
    ("POST", "/v1/embeddings", embeddings),
    ("GET", "/v1/models", list_models),
    ("GET", "/v1/models/{id:.+}", show_model),
    ("POST", "/tokenize", tokenize),
    ("POST", "/detokenize", detokenize),
    ("POST", "/v1/chat/completions/render", render_chat),
    ("POST", "/v1/completions/render", render_completion),
    ("POST", "/apply-template", apply_template),
    ("GET", "/health", health),
    ("GET", "/health/ready", health),
    ("GET", "/health/live", live),
    ("GET", "/ping", health),
    ("GET", "/version", version),
    ("GET", "/load", load),
    ("GET", "/props", props),
    ("GET", "/metrics", metrics),
    ("GET", "/live", watch),
    ("POST", "/start_profile", start_profile),
    ("POST", "/stop_profile", stop_profile),
    ("GET", "/openapi.json", openapi),
    ("GET", "/docs", show_docs),
    ("GET", "/", show_page),
    ("GET", "/page/{name}", show_page_file),
)
# Container platforms probe the first two without keys; the pages ask for the key themselves.
OPEN_HANDLERS: frozenset[Handler] = frozenset({health, live, show_page, show_page_file, show_docs})

OPTIONS = web.AppKey("options", ModelOptions)


def make_app(
    options: ModelOptions, *, api_keys: ApiKeys | None = None, host: str = "127.0.0.1"
) -> web.Application:
    """The application; it opens its model when it starts, and serves 503 until that is ready."""
    app = web.Application(middlewares=[answer_errors, check_access], client_max_size=MAX_BODY_BYTES)
    app[OPTIONS] = options
    app[LIFECYCLE] = Lifecycle()
    app[METRICS] = Metrics(app[LIFECYCLE], options.served_names[0])
    app[LIVE_FEED] = LiveFeed(app[METRICS])
    app[PAGE] = read_page()
    app[SPEC] = make_spec(ROUTES, OPERATIONS, OPEN_HANDLERS, version=installed_version())
    app[GUARD] = ConnectionGuard()
    app[ACCESS] = make_access(api_keys or ApiKeys(), host, OPEN_HANDLERS)
    for method, path, handler in ROUTES:
        app.router.add_route(method, path, handler)
    app.on_response_prepare.append(add_request_id)
    app.cleanup_ctx.append(run_model)
    return app


async def run_model(app: web.Application) -> AsyncIterator[None]:
    """Holds the model open while the application lives."""
    tasks = [
        asyncio.create_task(hold_model(app[OPTIONS], app[LIFECYCLE], app[METRICS])),
        asyncio.create_task(log_throughput(app[LIFECYCLE])),
    ]
    yield
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def hold_model(options: ModelOptions, lifecycle: Lifecycle, metrics: Metrics) -> None:
    """Opens the model and waits; when it cannot be had or dies, the server ends."""
    try:
        async with open_model(options, on_step=metrics.engine.observe_step) as model:
            lifecycle.model = model
            logger.info("ready")
            cause = await model.engine.wait_until_dead()
            logger.error("%s", cause)
            lifecycle.end(EXIT_ENGINE)
    except (ModelNotFound, ModelFileError) as error:
        logger.error("%s", error)
        lifecycle.end(EXIT_USAGE)
    except EngineNotStarted as error:
        logger.error("%s", error)
        lifecycle.end(error.exit_code)
    finally:
        if lifecycle.exit_code is None:
            lifecycle.end(EXIT_ENGINE)  # a bug, or the end of the process anyway


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives every error OpenAI's body; what is a bug of ours is logged and not told."""
    request.app[GUARD].heard(request)
    request_id = take_request_id(request)
    response = await _answer(request, handler, request_id)
    if request.match_info.handler not in OPEN_HANDLERS:
        request.app[METRICS].answered(request.method, _path_of(request), response.status)
    return response


async def _answer(request: web.Request, handler: Handler, request_id: str) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConnectionError:
        return web.Response(status=499)  # nginx' number for a client that has left; nobody reads it
    except Exception as error:  # the one place where any error becomes an answer
        problem = problem_of(error)
        if problem is None:
            logger.exception("%s: %s %s failed", request_id, request.method, request.path)
            problem = internal_problem(request_id)
    if request.match_info.handler not in OPEN_HANDLERS:
        request.app[METRICS].rejected(problem.code or "none")
    return problem.response()


def _path_of(request: web.Request) -> str:
    """The path as the table has it; anything else would let clients make metrics up."""
    resource = request.match_info.route.resource
    return "none" if resource is None else resource.canonical
