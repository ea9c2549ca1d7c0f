"""POST /v1/chat/completions: a chat goes through the model's template, the answer is a message."""

from dataclasses import replace
from typing import Any

from aiohttp import web

from runtime.errors import PromptTooLong
from server.access import cache_salt
from server.chat_shape import ChatShape
from server.generation import Call, generate
from server.json_body import read_json
from server.lifecycle import LIFECYCLE
from server.metrics import METRICS
from server.models_route import check_model
from server.request_id import REQUEST_ID
from server.respond import Head, respond
from server.schema import ChatBody, TemplateOptions, TokenizeBody, parse
from server.tool_choice import call_finder, chat_form, end_finder, offered_tools


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answers a chat with a message, at once or as a stream of its pieces."""
    with request.app[LIFECYCLE].request() as model:
        body = parse(ChatBody, await read_json(request))
        name = check_model(body.model, model.names)
        max_tokens = body.max_tokens
        if max_tokens is None:
            max_tokens = body.max_completion_tokens
        params = body.sampling_params(
            max_tokens=max_tokens, logprobs=(body.top_logprobs or 0) if body.logprobs else None
        )
        form = chat_form(body)
        if form is not None:
            params = replace(params, structured_outputs=form.wanted)
            await model.text.check_form(form)
        chat = await model.text.render_chat(body.messages, **template_options(body))
        request_id = body.request_id or request[REQUEST_ID]
        call = Call(
            request_id=request_id,
            prompts=[chat.ids],
            params=params,
            default_max_tokens=None,
            starts_text=True,
            cache_salt=cache_salt(request, body.cache_salt),
            priority=body.priority or 0,
            with_ids=bool(body.return_token_ids),
            end_finder=end_finder(body),
        )
        shape = ChatShape(model.text.tokenizer, body, call, call_finder(body))
        try:
            async with generate(call, model, request.app[METRICS]) as generation:
                head = Head(request_id, name)
                return await respond(request, generation, shape, head, body.stream_form)
        except PromptTooLong as error:
            raise PromptTooLong(str(error), param="messages") from None


def template_options(body: ChatBody | TokenizeBody) -> dict[str, Any]:
    """The arguments of the template that a body gives."""
    kwargs = body.chat_template_kwargs or TemplateOptions()
    options: dict[str, Any] = kwargs.model_dump(exclude_none=True)
    for name in ("add_generation_prompt", "continue_final_message"):
        if getattr(body, name) is not None:
            options[name] = getattr(body, name)
    if isinstance(body, ChatBody) and (tools := offered_tools(body)):
        options["tools"] = [tool.model_dump(exclude_none=True) for tool in tools]
    return options
