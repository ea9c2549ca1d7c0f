"""POST /v1/completions: raw prompts go on, or the gap between prompt and suffix is filled."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from runtime.request import SamplingParams
from runtime.text.answer import Piece
from runtime.text.tokenizer import Tokenizer
from server.access import cache_salt
from server.answer_form import answer_form
from server.generation import Call, generate
from server.json_body import read_json
from server.lifecycle import LIFECYCLE
from server.logprobs import completion_logprobs, echoed_logprobs, prompt_logprobs
from server.metrics import METRICS
from server.models_route import check_model
from server.prompts import EchoedPrompt, echoed_prompts, prompt_ids
from server.request_id import REQUEST_ID
from server.respond import Head, WholeAnswer, respond
from server.schema import CompletionBody, parse

DEFAULT_MAX_TOKENS = 16  # OpenAI's


async def completions(request: web.Request) -> web.StreamResponse:
    """Goes on with prompts as they are, or fills the gap between `prompt` and `suffix`."""
    with request.app[LIFECYCLE].request() as model:
        body = parse(CompletionBody, await read_json(request))
        name = check_model(body.model, model.names)
        form = answer_form(body.response_format, body.structured_outputs)
        params = sampling_params(body)
        if form is not None:
            params = replace(params, structured_outputs=form.wanted)
            await model.text.check_form(form)
        add_special = body.add_special_tokens is not False
        ids = await prompt_ids(body.prompt, model.text, add_special=add_special, suffix=body.suffix)
        tokenizer = model.text.tokenizer
        echoed = (
            echoed_prompts(body.prompt, ids, tokenizer, add_special=add_special)
            if body.echo
            else None
        )
        request_id = body.request_id or request[REQUEST_ID]
        call = Call(
            request_id=request_id,
            prompts=ids,
            params=params,
            default_max_tokens=DEFAULT_MAX_TOKENS,
            starts_text=False,
            cache_salt=cache_salt(request, body.cache_salt),
            priority=body.priority or 0,
            with_ids=bool(body.return_token_ids),
            prompt_only=body.prompt_only,
        )
        shape = CompletionShape(tokenizer, body, call, echoed)
        async with generate(call, model, request.app[METRICS]) as generation:
            head = Head(request_id, name)
            return await respond(request, generation, shape, head, body.stream_form)


def sampling_params(body: CompletionBody) -> SamplingParams:
    """The engine's form of a body: `echo` with `logprobs` asks for those of the prompt.

    Raises:
        RequestError: a value is out of its range.
    """
    others: dict[str, Any] = {"max_tokens": body.max_tokens, "logprobs": body.logprobs}
    if body.echo and body.logprobs is not None:
        others["prompt_logprobs"] = max(body.logprobs, body.prompt_logprobs or 0)
    if body.prompt_only:
        others |= {"max_tokens": 1, "min_tokens": 0, "ignore_eos": True}
    return body.sampling_params(**others)


class CompletionShape:
    """Text completions as OpenAI writes them."""

    id_prefix = "cmpl"
    object_name = "text_completion"
    chunk_name = "text_completion"

    def __init__(
        self,
        tokenizer: Tokenizer,
        body: CompletionBody,
        call: Call,
        echoed: list[EchoedPrompt] | None,
    ) -> None:
        """`echoed`: the prompts where they are to be shown."""
        self._tokenizer = tokenizer
        self._body = body
        self._call = call
        self._echoed = echoed

    def deltas(self, piece: Piece, *, first: bool) -> list[dict[str, Any]]:
        return [self._choice(piece.index, piece.text, piece, begins=first)]

    def whole(self, index: int, answer: WholeAnswer) -> dict[str, Any]:
        choice = self._choice(index, answer.text, answer, begins=True)
        if self._body.prompt_logprobs is not None and answer.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(
                answer.prompt_logprobs, self._tokenizer, num_top=self._body.prompt_logprobs
            )
        return choice

    def prompt_fields(self, answers: Sequence[WholeAnswer]) -> dict[str, Any]:
        return {}

    def _choice(
        self, index: int, text: str, answer: Piece | WholeAnswer, *, begins: bool
    ) -> dict[str, Any]:
        number = index // self._call.params.n
        echoed = self._echoed[number] if self._echoed else None
        choice = {
            "index": index,
            "text": echoed.text + text if echoed and begins else text,
            "logprobs": self._logprobs(answer, echoed, begins=begins),
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
        }
        if self._body.return_token_ids:
            choice["token_ids"] = list(answer.token_ids)
            if begins:
                choice["prompt_token_ids"] = self._call.prompts[number]
        return choice

    def _logprobs(
        self, answer: Piece | WholeAnswer, echoed: EchoedPrompt | None, *, begins: bool
    ) -> dict[str, Any] | None:
        if self._body.logprobs is None:
            return None
        begin = len(echoed.text) if echoed else 0
        own = completion_logprobs(answer.scored, self._tokenizer, begin=begin)
        if echoed is None or not begins:
            return own
        assert answer.prompt_logprobs is not None, "they come with the first token"
        before = echoed_logprobs(
            echoed, answer.prompt_logprobs, self._tokenizer, num_top=self._body.logprobs
        )
        return {name: before[name] + own[name] for name in own}
