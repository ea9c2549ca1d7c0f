"""The id of each HTTP request, in its answer's header and in the log."""

import re
import uuid

from aiohttp import web

REQUEST_ID = web.RequestKey("request_id", str)
HEADER = "X-Request-Id"
# what may be written into a log and a header as it is
CLEAN = re.compile(r"[A-Za-z0-9_-]{1,64}")


def take_request_id(request: web.Request) -> str:
    """The client's own id where it is harmless, else a new one; kept with the request."""
    given = request.headers.get(HEADER, "")
    request_id = given if CLEAN.fullmatch(given) else uuid.uuid4().hex
    request[REQUEST_ID] = request_id
    return request_id


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: writes the id into every answer's headers."""
    if REQUEST_ID in request:
        response.headers[HEADER] = request[REQUEST_ID]
