"""POST /tokenize and /detokenize, with vLLM's JSON."""

from aiohttp import web

from server.chat import template_options
from server.json_body import read_json
from server.lifecycle import LIFECYCLE
from server.models_route import check_model
from server.prompts import check_ids
from server.respond import json_response
from server.schema import DetokenizeBody, TokenizeBody, parse


async def tokenize(request: web.Request) -> web.Response:
    """Token ids of a raw prompt or of a chat; control tokens in raw prompts are parsed unless
    `parse_special` is false."""
    with request.app[LIFECYCLE].request() as model:
        body = parse(TokenizeBody, await read_json(request))
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
    """The text of token ids, control tokens by their names."""
    with request.app[LIFECYCLE].request() as model:
        body = parse(DetokenizeBody, await read_json(request))
        check_model(body.model, model.names)
        tokenizer = model.text.tokenizer
        check_ids(body.tokens, tokenizer.vocab_size, param="tokens")
        return json_response({"prompt": tokenizer.decode(body.tokens, skip_special=False)})
