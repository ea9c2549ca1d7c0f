"""POST …/render and /apply-template: the prompt as the model would see it; nothing is generated."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from server.chat import template_options
from server.json_body import read_json
from server.lifecycle import LIFECYCLE
from server.models_route import check_model
from server.prompts import prompt_ids
from server.respond import json_response
from server.schema import ChatBody, CompletionBody, parse
from server.served_model import ServedModel


async def render_chat(request: web.Request) -> web.Response:
    """The prompt that a chat becomes; nothing is generated. Takes the body of the chat itself."""
    with request.app[LIFECYCLE].request() as model:
        body = parse(ChatBody, await read_json(request))
        check_model(body.model, model.names)
        chat = await model.text.render_chat(body.messages, **template_options(body))
        return json_response({"prompt": chat.text} | _tokens(chat.ids, model))


async def render_completion(request: web.Request) -> web.Response:
    """The prompts as the model sees them; nothing is generated. Takes the completion's own body."""
    with request.app[LIFECYCLE].request() as model:
        body = parse(CompletionBody, await read_json(request))
        check_model(body.model, model.names)
        add_special = body.add_special_tokens is not False
        prompts = await prompt_ids(
            body.prompt, model.text, add_special=add_special, suffix=body.suffix
        )
        decode = model.text.tokenizer.decode
        return json_response(
            [{"prompt": decode(ids, skip_special=False)} | _tokens(ids, model) for ids in prompts]
        )


async def apply_template(request: web.Request) -> web.Response:
    """The text alone that a chat becomes, under llama-server's name."""
    with request.app[LIFECYCLE].request() as model:
        body = parse(ChatBody, await read_json(request))
        check_model(body.model, model.names)
        chat = await model.text.render_chat(body.messages, **template_options(body))
        return json_response({"prompt": chat.text})


def _tokens(ids: Sequence[int], model: ServedModel) -> dict[str, Any]:
    """`bytes` are exact where a token is a part of a character; `special` ones are no text."""
    tokenizer = model.text.tokenizer
    return {
        "token_ids": ids,
        "tokens": [
            {"bytes": list(tokenizer.token_bytes(i)), "special": tokenizer.is_control(i)}
            for i in ids
        ],
        "max_model_len": model.info.max_model_len,
    }
