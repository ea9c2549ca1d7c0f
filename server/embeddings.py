"""POST /v1/embeddings: texts to vectors of length one, from the model's last hidden states."""

import base64
import math
import sys
import time
from array import array
from typing import Literal

from aiohttp import web

from runtime.errors import PromptTooLong, RequestError
from runtime.messages import Submit
from runtime.request import SamplingParams, answer_room
from server.access import cache_salt
from server.body import Body, Prompt
from server.json_body import read_json
from server.lifecycle import LIFECYCLE
from server.metrics import METRICS, FinishedAnswer
from server.models_route import check_model
from server.prompts import prompt_ids
from server.request_id import REQUEST_ID
from server.request_log import log_finished
from server.respond import json_response
from server.schema import parse
from server.served_model import ServedModel


class EmbeddingsBody(Body):
    """POST /v1/embeddings."""

    input: Prompt
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    pooling: Literal["last", "mean"] | None = None
    add_special_tokens: bool | None = None
    user: str | None = None  # taken and not used, as elsewhere


async def embeddings(request: web.Request) -> web.Response:
    """One vector for each input: the last token's state, or the mean of all."""
    arrival = time.monotonic()
    with request.app[LIFECYCLE].request() as model:
        body = parse(EmbeddingsBody, await read_json(request))
        name = check_model(body.model, model.names)
        inputs = await _input_ids(body, model)
        found = await _embed(inputs, body, model, cache_salt(request, None))
    metrics, now, num_tokens = request.app[METRICS], time.monotonic(), sum(map(len, inputs))
    for ids in inputs:
        metrics.finished(
            FinishedAnswer(
                reason="stop",
                arrival=arrival,
                begun=None,
                first_token=now,
                last_token=now,
                num_prompt=len(ids),
                num_output=0,
            )
        )
    log_finished(
        request[REQUEST_ID], num_prompt=num_tokens, num_output=0, arrival=arrival, reasons=["stop"]
    )
    vectors = [unit(vector) for vector in found]
    if body.dimensions is not None and body.dimensions != len(vectors[0]):
        raise RequestError(
            f"dimensions can only be {len(vectors[0])}, the width of the model, "
            f"got {body.dimensions}",
            param="dimensions",
        )
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _base64(vector) if body.encoding_format == "base64" else vector.tolist(),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return json_response({"object": "list", "data": data, "model": name, "usage": usage})


def unit(vector: array[float]) -> array[float]:
    """The vector divided by its length; zero stays zero."""
    length = math.sqrt(math.sumprod(vector, vector))
    return array("f", (value / length for value in vector)) if length else vector


async def _input_ids(body: EmbeddingsBody, model: ServedModel) -> list[list[int]]:
    try:
        inputs = await prompt_ids(
            body.input, model.text, add_special=body.add_special_tokens is not False
        )
        for ids in inputs:
            answer_room(
                len(ids), 1, max_model_len=model.info.max_model_len, kv_tokens=model.info.kv_tokens
            )
    except PromptTooLong as error:
        raise PromptTooLong(str(error), param="input") from None
    except RequestError as error:  # it speaks of the prompt
        raise RequestError(f"input: {error}", param="input", code=error.code) from None
    return inputs


async def _embed(
    inputs: list[list[int]], body: EmbeddingsBody, model: ServedModel, salt: str
) -> list[array[float]]:
    params = SamplingParams(max_tokens=1)
    requests = [
        Submit(
            model.engine.new_id(),
            ids,
            params,
            cache_salt=salt,
            pooling=body.pooling or "last",
        )
        for ids in inputs
    ]
    found: dict[int, array[float]] = {}
    async with model.engine.generate(requests) as stream:
        while outputs := await stream.take():
            for output in outputs:
                assert output.embedding is not None, "asked for, the engine gives it"
                found[output.request_id] = array("f", output.embedding)
    return [found[request.request_id] for request in requests]


def _base64(vector: array[float]) -> str:
    """float32, the least byte first, as clients read it."""
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode("ascii")
