"""GET /live: requests, pages and speeds as events, four times a second."""

import asyncio

from aiohttp import web

from server.lifecycle import LIFECYCLE
from server.live_feed import PERIOD, LiveFeed, facts
from server.sse import EventStream, event

LIVE_FEED = web.AppKey("live_feed", LiveFeed)


async def watch(request: web.Request) -> web.StreamResponse:
    """Requests, pages and speeds as events, four times a second.

    The first event has the facts, each that follows a moment; an error tells of the end.
    """
    lifecycle, feed = request.app[LIFECYCLE], request.app[LIVE_FEED]
    model = lifecycle.require_model()
    async with EventStream(request) as events:
        await events.send([event({"facts": facts(model)})])
        while True:
            await events.send([await feed.moment(model)])
            await asyncio.sleep(PERIOD)
            model = lifecycle.require_model()  # a shutdown does not wait for those who look on
    return events.response
