"""What each route takes and gives, for /openapi.json; a route that is missing here fails a test."""

from collections.abc import Mapping
from types import MappingProxyType

from aiohttp import web
from aiohttp.typedefs import Handler

from server.chat import chat_completions
from server.completions import completions
from server.embeddings import EmbeddingsBody, embeddings
from server.infill import infill
from server.infill_body import InfillBody
from server.live_route import watch
from server.models_route import list_models, show_model
from server.openapi import EVENTS, HTML, JSON, TEXT, Operation
from server.page_routes import show_docs, show_page, show_page_file
from server.profile_routes import start_profile, stop_profile
from server.render_routes import apply_template, render_chat, render_completion
from server.respond import json_response
from server.schema import ChatBody, CompletionBody, DetokenizeBody
from server.status_routes import health, live, load, metrics, props, version
from server.tokenize_routes import AnyTokenizeBody, detokenize, tokenize

SPEC = web.AppKey("spec", Mapping[str, object])


async def openapi(request: web.Request) -> web.Response:
    """This description of all routes, for programs."""
    return json_response(request.app[SPEC])


OPERATIONS: Mapping[Handler, Operation] = MappingProxyType(
    {
        health: Operation(media=()),
        live: Operation(media=()),
        version: Operation(answer="Version"),
        load: Operation(answer="Load"),
        props: Operation(answer="Props"),
        metrics: Operation(media=(TEXT,)),
        list_models: Operation(answer="Models"),
        show_model: Operation(answer="Model"),
        completions: Operation(CompletionBody, "Completion", (JSON, EVENTS)),
        chat_completions: Operation(ChatBody, "ChatCompletion", (JSON, EVENTS)),
        infill: Operation(InfillBody, "Infill", (JSON, EVENTS)),
        embeddings: Operation(EmbeddingsBody, "Embeddings"),
        tokenize: Operation(AnyTokenizeBody, "Tokens"),
        detokenize: Operation(DetokenizeBody, "Text"),
        render_chat: Operation(ChatBody, "Rendered"),
        render_completion: Operation(CompletionBody, "RenderedList"),
        apply_template: Operation(ChatBody, "Prompt"),
        start_profile: Operation(answer="Profile"),
        stop_profile: Operation(answer="Profile"),
        watch: Operation(media=(EVENTS,)),
        show_page: Operation(media=(HTML,)),
        show_page_file: Operation(media=(HTML, "text/css", "text/javascript", "image/svg+xml")),
        show_docs: Operation(media=(HTML,)),
        openapi: Operation(),
    }
)
