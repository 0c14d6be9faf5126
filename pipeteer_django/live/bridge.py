"""From ZeroMQ's thread into an event loop, and from there to the sockets that this process serves.

There are two carriers of changes, and each is enough:

- ZeroMQ reaches every process of a host. Each ASGI process has a bridge of its own, which begins with its first socket
  and ends with its last, and tells its own sockets. So several daphne processes need neither Redis nor each other.
- A channel layer that leaves the process (channels-redis) reaches other hosts. Whoever changes rows puts that into one
  group (`relay.py`), and every socket is a member. It works without ZeroMQ, too.

Where both are there, a change arrives twice; sockets gather what they hear, so that nobody notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from pipeteer_django.pipelines.registry import registry
from pipeteer_django.wakeups import Subscription, listen

CALM = 0.05
"""Seconds for which changes are gathered before sockets hear of them: a flood costs twenty deliveries a second."""

Hear = Callable[[frozenset[str]], None]
"""Called on the event loop with ids of pipelines; must be quick."""


class Bridge:
    """Belongs to one event loop. Everything but `_hear` is called on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._hearers: dict[Hear, None] = {}
        self._subscription: Subscription | None = None
        self._heard: set[str] = set()
        self._guard = threading.Lock()

    def join(self, hear: Hear) -> None:
        """Tell this one, too, from now on."""
        self._hearers[hear] = None
        if self._subscription is None:
            self._subscription = listen(self._hear, changes=True)

    def leave(self, hear: Hear) -> None:
        """Tell it nothing more; without anybody to tell, stop listening and be forgotten."""
        self._hearers.pop(hear, None)
        if not self._hearers:
            _bridges.pop(self._loop, None)
            if self._subscription is not None:
                self._subscription.close()
                self._subscription = None

    def _hear(self, id: str) -> None:
        """On the subscriber's thread. One call into the loop is enough for a flood."""
        if registry.get(id) is None:
            return  # so that what is gathered is bounded, whatever is sent
        with self._guard:
            first = not self._heard
            self._heard.add(id)
        if first:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._loop.call_later, CALM, self._deliver)

    def _deliver(self) -> None:
        with self._guard:
            heard, self._heard = frozenset(self._heard), set()
        for hear in list(self._hearers):
            hear(heard)


_bridges: dict[asyncio.AbstractEventLoop, Bridge] = {}


def bridge() -> Bridge:
    """The bridge of the running event loop: a server has one loop, and so one bridge."""
    loop = asyncio.get_running_loop()
    if loop not in _bridges:
        _bridges[loop] = Bridge(loop)
    return _bridges[loop]
