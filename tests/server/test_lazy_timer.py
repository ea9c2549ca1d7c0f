"""A timer that is put off, stopped, started again and closed."""

import asyncio

from server.lazy_timer import LazyTimer


async def fired_after(*steps: str) -> int:
    """How often a timer of 20 ms fires within 100 ms of these steps."""
    fired: list[None] = []
    timer = LazyTimer(0.02, lambda: fired.append(None))
    for step in steps:
        getattr(timer, step)()
    await asyncio.sleep(0.1)
    timer.close()
    return len(fired)


async def test_it_fires_once_when_it_is_left_alone() -> None:
    assert await fired_after("start") == 1


async def test_it_does_not_fire_once_stopped_or_closed() -> None:
    assert await fired_after("start", "stop") == 0
    assert await fired_after("start", "close") == 0


async def test_it_can_be_started_again() -> None:
    assert await fired_after("start", "stop", "start") == 1


async def test_putting_it_off_keeps_it_from_firing() -> None:
    loop = asyncio.get_running_loop()
    fired: list[float] = []
    timer = LazyTimer(0.05, lambda: fired.append(loop.time()))
    for _ in range(100):  # no waiting in between: time does not matter here
        timer.start()
    begun = loop.time()
    while not fired:
        await asyncio.sleep(0.005)
    timer.close()
    assert len(fired) == 1 and fired[0] - begun >= 0.049
