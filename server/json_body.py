"""Reads a request's body as strict JSON: one object, no NaN, no duplicate keys, not too deep."""

import asyncio
import json
import math
from typing import Any, NoReturn

from aiohttp import web

from server.errors import body_too_slow, invalid_json, unsupported_media_type
from server.limits import BODY_SECONDS, MAX_JSON_DEPTH


async def read_json(request: web.Request, *, seconds: float = BODY_SECONDS) -> dict[str, Any]:
    """The object in the body.

    Raises:
        ApiError: the body is no JSON object, or of another media type, or too slow in coming.
        web.HTTPRequestEntityTooLarge: it is longer than the application allows.
    """
    if request.content_type != "application/json":
        # also what keeps a web page from posting here without a preflight
        raise unsupported_media_type("the body must be application/json")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise unsupported_media_type("the body must not be compressed")
    try:
        async with asyncio.timeout(seconds):
            raw = await request.read()
    except TimeoutError:
        raise body_too_slow() from None
    return parse_json(raw)


def parse_json(raw: bytes) -> dict[str, Any]:
    """The object that `raw` spells.

    Raises:
        ApiError: it spells none, or what Python's parser takes and JSON does not allow.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_no_duplicates,
        )
    except UnicodeDecodeError:
        raise invalid_json("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise invalid_json(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise invalid_json(f"the body is nested more than {MAX_JSON_DEPTH} deep") from None
    except ValueError:  # Python refuses numbers of thousands of digits
        raise invalid_json("the body has a number of too many digits") from None
    if not isinstance(value, dict):
        raise invalid_json("the body must be a JSON object")
    _check(value)
    return value


def _no_constant(name: str) -> NoReturn:
    raise invalid_json(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise invalid_json(f"the number {digits[:20]} is too large")
    return number


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise invalid_json("an object has the same key twice")
    return made


def _check(value: dict[str, Any]) -> None:
    """Refuses nesting beyond the limit and strings that UTF-8 cannot hold."""
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        below: list[Any] = []
        for container in level:
            if isinstance(container, dict):
                for key in container:
                    _check_text(key)
                container = container.values()
            for item in container:
                kind = type(item)
                if kind is str:
                    _check_text(item)
                elif kind is dict or kind is list:
                    below.append(item)
        if not below:
            return
        level = below
    raise invalid_json(f"the body is nested more than {MAX_JSON_DEPTH} deep")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid_json("a string holds a lone surrogate") from None
