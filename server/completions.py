"""POST /v1/completions: raw prompts go on."""

from typing import Any

from aiohttp import web

from runtime.text.answer import Piece, ScoredToken
from runtime.text.tokenizer import Tokenizer
from server.access import cache_salt
from server.generation import Call, generate
from server.json_body import read_json
from server.lifecycle import LIFECYCLE
from server.logprobs import completion_logprobs
from server.metrics import METRICS
from server.models_route import check_model
from server.prompts import prompt_ids
from server.request_id import REQUEST_ID
from server.respond import WholeAnswer, respond
from server.schema import CompletionBody, parse

DEFAULT_MAX_TOKENS = 16  # OpenAI's


async def completions(request: web.Request) -> web.StreamResponse:
    """Handles the route."""
    with request.app[LIFECYCLE].request() as model:
        body = parse(CompletionBody, await read_json(request))
        name = check_model(body.model, model.names)
        params = body.sampling_params(max_tokens=body.max_tokens, logprobs=body.logprobs)
        call = Call(
            request_id=request[REQUEST_ID],
            prompts=await prompt_ids(
                body.prompt, model.text, add_special=body.add_special_tokens is not False
            ),
            params=params,
            default_max_tokens=DEFAULT_MAX_TOKENS,
            starts_text=False,
            cache_salt=cache_salt(request, body.cache_salt),
        )
        shape = CompletionShape(model.text.tokenizer, with_logprobs=body.logprobs is not None)
        async with generate(call, model, request.app[METRICS]) as generation:
            return await respond(request, generation, shape, body, name)


class CompletionShape:
    """Text completions as OpenAI writes them."""

    id_prefix = "cmpl"
    object_name = "text_completion"
    chunk_name = "text_completion"

    def __init__(self, tokenizer: Tokenizer, *, with_logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._with_logprobs = with_logprobs

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def delta(self, piece: Piece) -> dict[str, Any]:
        return self._choice(piece.index, piece.text, piece, piece.scored)

    def whole(self, index: int, answer: WholeAnswer) -> dict[str, Any]:
        return self._choice(index, answer.text, answer, answer.scored)

    def _choice(
        self,
        index: int,
        text: str,
        ending: Piece | WholeAnswer,
        scored: list[ScoredToken] | tuple[ScoredToken, ...],
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": completion_logprobs(scored, self._tokenizer)
            if self._with_logprobs
            else None,
            "finish_reason": ending.finish_reason,
            "stop_reason": ending.stop_reason,
        }
