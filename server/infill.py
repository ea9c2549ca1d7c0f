"""POST /infill: the text of a gap, in llama-server's JSON, for llama.vim and llama.vscode."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from aiohttp import web

from runtime.text.answer import Piece
from server.access import cache_salt
from server.generation import Call, Generation, generate
from server.infill_body import InfillBody
from server.infill_prompt import InfillPrompt, infill_prompt
from server.json_body import read_json
from server.lifecycle import LIFECYCLE
from server.metrics import METRICS
from server.models_route import check_model
from server.request_id import REQUEST_ID
from server.respond import WholeAnswer, json_response
from server.schema import parse
from server.served_model import ServedModel
from server.sse import EventStream

DEFAULT_ROOM = 128  # tokens kept for an answer of no stated length


async def infill(request: web.Request) -> web.StreamResponse:
    """Fills the gap between `input_prefix` + `prompt` and `input_suffix`."""
    with request.app[LIFECYCLE].request() as model:
        body = parse(InfillBody, await read_json(request))
        name = check_model(body.model, model.names)
        filling = Filling(body, *await _call(request, body, model), model, name)
        async with generate(filling.call, model, request.app[METRICS]) as generation:
            if body.stream:
                return await _stream(request, filling, generation)
            whole = WholeAnswer()
            async for piece in filling.pieces(generation):
                if piece is not None:
                    whole.add(piece)
            return json_response(select(filling.final(whole, generation), body.response_fields))


async def _call(
    request: web.Request, body: InfillBody, model: ServedModel
) -> tuple[Call, InfillPrompt]:
    max_len = min(model.info.max_model_len, model.info.kv_tokens)
    wanted = DEFAULT_ROOM if body.n_predict in (None, -1) else max(1, body.n_predict or 0)
    prompt = await infill_prompt(
        model.text,
        (body.input_prefix or "") + (body.prompt or ""),
        body.input_suffix or "",
        body.extras,
        room=max_len - min(wanted, max_len // 2),
    )
    max_tokens = max_len - len(prompt.ids)
    if body.n_predict not in (None, -1):
        max_tokens = min(wanted, max_tokens)
    call = Call(
        request_id=request[REQUEST_ID],
        prompts=[prompt.ids],
        params=replace(body.sampling_params(), max_tokens=max_tokens),
        default_max_tokens=None,
        starts_text=False,
        cache_salt=cache_salt(request, body.cache_salt),
    )
    return call, prompt


@dataclass
class Filling:
    """One gap while it is filled."""

    body: InfillBody
    call: Call
    prompt: InfillPrompt
    model: ServedModel
    name: str
    first_token: float | None = None

    async def pieces(self, generation: Generation) -> AsyncIterator[Piece | None]:
        """The answer's pieces, None where nothing came for a while; the last one is an ending.

        With n_predict 0 the prompt is computed, and so cached, and there is no text.
        """
        has_line_end = False
        async for pieces in generation.pieces():
            if not pieces:
                yield None
            for piece in pieces:
                now = time.monotonic()
                self.first_token = self.first_token or now
                if self.body.n_predict == 0:
                    piece = replace(piece, text="")
                has_line_end = has_line_end or "\n" in piece.text
                if piece.finish_reason is None and has_line_end and self._is_over(now):
                    yield replace(piece, finish_reason="length")
                    return
                yield piece

    def final(self, whole: WholeAnswer, generation: Generation) -> dict[str, Any]:
        """The object that ends an answer, with all that is known of it."""
        usage = generation.usage()
        num_output = 0 if self.body.n_predict == 0 else usage["completion_tokens"]
        num_cached = usage["prompt_tokens_details"]["cached_tokens"]
        tokenizer, params = self.model.text.tokenizer, self.call.params
        word = whole.stop_reason if isinstance(whole.stop_reason, str) else ""
        kinds = {"length": "limit", "stop": "word" if word else "eos"}
        return {
            "index": 0,
            "content": whole.text,
            "tokens": [],
            "id_slot": -1,
            "stop": True,
            "model": self.name,
            "tokens_predicted": num_output,
            "tokens_evaluated": usage["prompt_tokens"],
            "generation_settings": {
                "n_ctx": self.model.info.max_model_len,
                "n_predict": params.max_tokens,
                "temperature": params.temperature,
                "top_k": params.top_k,
                "top_p": params.top_p,
                "min_p": params.min_p,
                "repeat_penalty": params.repetition_penalty,
                "presence_penalty": params.presence_penalty,
                "frequency_penalty": params.frequency_penalty,
                "stop": list(params.stop),
            },
            "prompt": tokenizer.decode(self.prompt.ids, skip_special=False),
            "has_new_line": "\n" in whole.text,
            "truncated": self.prompt.truncated,
            "stop_type": kinds.get(whole.finish_reason or "", "none"),
            "stopping_word": word,
            "tokens_cached": num_cached,
            "timings": self._timings(usage["prompt_tokens"] - num_cached, num_cached, num_output),
        }

    def _is_over(self, now: float) -> bool:
        limit = self.body.t_max_predict_ms
        assert self.first_token is not None
        return bool(limit) and 1000 * (now - self.first_token) > (limit or 0)

    def _timings(self, num_prompt: int, num_cached: int, num_output: int) -> dict[str, float]:
        """Milliseconds, as the client sees them: waiting in the queue is part of the prompt's."""
        now = time.monotonic()
        first = self.first_token or now
        prompt_ms, output_ms = 1000 * (first - self.call.arrival), 1000 * (now - first)
        return {
            "cache_n": num_cached,
            "prompt_n": num_prompt,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": prompt_ms / max(1, num_prompt),
            "prompt_per_second": 1000 * num_prompt / max(prompt_ms, 1e-3),
            "predicted_n": num_output,
            "predicted_ms": output_ms,
            "predicted_per_token_ms": output_ms / max(1, num_output),
            "predicted_per_second": 1000 * num_output / max(output_ms, 1e-3),
        }


async def _stream(
    request: web.Request, filling: Filling, generation: Generation
) -> web.StreamResponse:
    """Events without [DONE]: llama-server's own routes end with `"stop":true`."""
    whole = WholeAnswer()
    async with EventStream(request) as events:
        async for piece in filling.pieces(generation):
            if piece is None:
                await events.ping()
                continue
            whole.add(piece)
            if piece.text:
                part = {"index": 0, "content": piece.text, "tokens": [], "stop": False}
                await events.send([_event(part)])
        end = filling.final(whole, generation) | {"content": ""}
        await events.send([_event(select(end, filling.body.response_fields))])
        await events.response.write_eof()
    return events.response


def select(answer: dict[str, Any], fields: list[str] | None) -> dict[str, Any]:
    """The fields that `response_fields` names; "timings/prompt_ms" is a key of the result."""
    if not fields:
        return answer
    chosen = {}
    for path in fields:
        value: Any = answer
        for part in path.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            chosen[path] = value
    return chosen


def _event(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
