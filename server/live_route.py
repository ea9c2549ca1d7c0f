"""GET /live: requests, pages and speeds as events, four times a second."""

import asyncio

from aiohttp import web

from server.lifecycle import LIFECYCLE
from server.live_feed import PERIOD, LiveFeed, facts
from server.sse import EventStream, event

LIVE_FEED = web.AppKey("live_feed", LiveFeed)


async def watch(request: web.Request) -> web.StreamResponse:
    """The first event has the facts, each that follows a moment; ends when the server does."""
    lifecycle, feed = request.app[LIFECYCLE], request.app[LIVE_FEED]
    model = lifecycle.require_model()
    async with EventStream(request) as events:
        await events.send([event({"facts": facts(model)})])
        while lifecycle.is_ready:  # it is no request that a shutdown would wait for
            await events.send([await feed.moment(model)])
            await asyncio.sleep(PERIOD)
        await events.done()
    return events.response
