"""POST /tokenize and /detokenize: vLLM's JSON, and llama-server's where `content` is given."""

from typing import Any

from aiohttp import web

from runtime.errors import RequestError
from server.chat import template_options
from server.json_body import read_json
from server.lifecycle import LIFECYCLE
from server.models_route import check_model
from server.prompts import check_ids
from server.respond import json_response
from server.schema import DetokenizeBody, TokenizeBody, parse
from server.served_model import ServedModel


class AnyTokenizeBody(TokenizeBody):
    """POST /tokenize: vLLM's fields, or llama-server's `content` and the two after it."""

    content: str | None = None
    add_special: bool | None = None
    with_pieces: bool | None = None


async def tokenize(request: web.Request) -> web.Response:
    """Token ids of a raw prompt or of a chat; control tokens in raw prompts are parsed unless
    `parse_special` is false. With llama-server's `content`, its answer."""
    with request.app[LIFECYCLE].request() as model:
        given = await read_json(request)
        if "content" in given:
            return json_response(await _llama_tokens(given, model))
        body = parse(TokenizeBody, given)
        check_model(body.model, model.names)
        if body.messages is not None:
            ids = (await model.text.render_chat(body.messages, **template_options(body))).ids
        else:
            assert body.prompt is not None, "the schema lets one of the two through"
            ids = await model.text.encode(
                body.prompt,
                parse_special=body.parse_special is not False,
                add_special=body.add_special_tokens is not False,
            )
        texts = map(model.text.tokenizer.token_text, ids) if body.return_token_strs else None
        return json_response(
            {
                "count": len(ids),
                "max_model_len": model.info.max_model_len,
                "tokens": ids,
                "token_strs": None if texts is None else list(texts),
            }
        )


async def detokenize(request: web.Request) -> web.Response:
    """The text of token ids, control tokens by their names; under vLLM's name for it and
    llama-server's."""
    with request.app[LIFECYCLE].request() as model:
        body = parse(DetokenizeBody, await read_json(request))
        check_model(body.model, model.names)
        tokenizer = model.text.tokenizer
        check_ids(body.tokens, tokenizer.vocab_size, param="tokens")
        text = tokenizer.decode(body.tokens, skip_special=False)
        return json_response({"prompt": text, "content": text})


async def _llama_tokens(given: dict[str, Any], model: ServedModel) -> dict[str, Any]:
    others = given.keys() - {"content", "add_special", "parse_special", "with_pieces", "model"}
    if others:
        name = sorted(others)[0][:64]
        raise RequestError(f"{name} does not go with content", param=name)
    body = parse(AnyTokenizeBody, given | {"prompt": ""})
    check_model(body.model, model.names)
    if body.content is None:
        raise RequestError("content must be a string", param="content", code="invalid_type")
    ids = await model.text.encode(
        body.content,
        parse_special=body.parse_special is not False,
        add_special=bool(body.add_special),  # llama-server's default
    )
    if not body.with_pieces:
        return {"tokens": ids}
    return {"tokens": [{"id": i, "piece": _piece(model, i)} for i in ids]}


def _piece(model: ServedModel, token_id: int) -> str | list[int]:
    """The token's text, or its bytes where they are no text of their own."""
    data = model.text.tokenizer.token_bytes(token_id)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)
