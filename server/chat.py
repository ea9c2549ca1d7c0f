"""POST /v1/chat/completions: a chat goes through the model's template, the answer is a message."""

from typing import Any

from aiohttp import web

from runtime.errors import PromptTooLong
from runtime.text.answer import Piece
from runtime.text.tokenizer import Tokenizer
from server.access import cache_salt
from server.generation import Call, generate
from server.json_body import read_json
from server.lifecycle import LIFECYCLE
from server.logprobs import chat_logprobs
from server.metrics import METRICS
from server.models_route import check_model
from server.request_id import REQUEST_ID
from server.respond import WholeAnswer, respond
from server.schema import ChatBody, TemplateOptions, TokenizeBody, parse


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Handles the route."""
    with request.app[LIFECYCLE].request() as model:
        body = parse(ChatBody, await read_json(request))
        name = check_model(body.model, model.names)
        max_tokens = body.max_tokens
        if max_tokens is None:
            max_tokens = body.max_completion_tokens
        params = body.sampling_params(
            max_tokens=max_tokens, logprobs=(body.top_logprobs or 0) if body.logprobs else None
        )
        chat = await model.text.render_chat(body.messages, **template_options(body))
        call = Call(
            request_id=request[REQUEST_ID],
            prompts=[chat.ids],
            params=params,
            default_max_tokens=None,
            starts_text=True,
            cache_salt=cache_salt(request, body.cache_salt),
        )
        shape = ChatShape(model.text.tokenizer, with_logprobs=bool(body.logprobs))
        try:
            async with generate(call, model, request.app[METRICS]) as generation:
                return await respond(request, generation, shape, body, name)
        except PromptTooLong as error:
            raise PromptTooLong(str(error), param="messages") from None


def template_options(body: ChatBody | TokenizeBody) -> dict[str, Any]:
    """The arguments of the template that a body gives."""
    kwargs = body.chat_template_kwargs or TemplateOptions()
    options: dict[str, Any] = kwargs.model_dump(exclude_none=True)
    for name in ("add_generation_prompt", "continue_final_message"):
        if getattr(body, name) is not None:
            options[name] = getattr(body, name)
    return options


class ChatShape:
    """Chat completions as OpenAI writes them."""

    id_prefix = "chatcmpl"
    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, *, with_logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._with_logprobs = with_logprobs

    def opening(self, index: int) -> dict[str, Any] | None:
        return {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }

    def delta(self, piece: Piece) -> dict[str, Any]:
        choice = {
            "index": piece.index,
            "delta": {"content": piece.text} if piece.text else {},
            "logprobs": chat_logprobs(piece.scored, self._tokenizer) if piece.scored else None,
            "finish_reason": piece.finish_reason,
        }
        return (
            choice if piece.finish_reason is None else choice | {"stop_reason": piece.stop_reason}
        )

    def whole(self, index: int, answer: WholeAnswer) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": chat_logprobs(answer.scored, self._tokenizer)
            if self._with_logprobs
            else None,
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
        }
