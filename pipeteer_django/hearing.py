"""Wake-ups for the user's own code: pipeteer's `notify` and `wait`."""

from __future__ import annotations

from functools import lru_cache

from pipeteer_django.conf import settings
from pipeteer_django.wakeups import Pace, Waiter, calm, publish


def notify(topic: str) -> None:
    """Publish a hint now: a pipeline's id ("work has arrived") or an output's name ("a result has").

    Enqueueing and results do this by themselves, on commit. Never blocks, never raises; a hint may be lost.
    """
    publish(topic)


async def wait(topic: str, timeout: float | None = None) -> bool:
    """Wait for a hint about `topic`, up to `timeout` seconds (the poll interval if None). True if one came.

    A hint may be lost, so look at the database after every return, whatever it returned. Called in a loop, it returns
    20 times a second at most in the long run, however many hints there are.
    """
    async with Waiter([topic], _pace(topic)) as waiter:
        return await waiter.await_wake(settings().POLL_INTERVAL if timeout is None else timeout)


@lru_cache(maxsize=1000)
def _pace(topic: str) -> Pace:
    return calm()
