"""Waiting for news of some topics: subscribe, look, wait, look again."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from .pace import Pace
from .subscriber import Subscription, listen

SETTLE = 0.25
"""Seconds the first waiter of a process gives its connection, so that the look that follows misses nothing."""
CALM = 0.05
"""Seconds between two looks that hints cause, in the long run."""
BURST = 10
"""So many hints are heeded at once before that."""


def calm() -> Pace:
    """How often hints may cause a look. A fresh one costs nobody any time; one that is kept bounds many waiters."""
    return Pace(CALM, BURST)


class Waiter:
    """Waits for wake-ups of `topics`, as a plain timeout when there are none.

    ::

        with Waiter(["my-output"]) as waiter:    # or async with
            while not (found := look()):
                waiter.wait(2)                   # or await waiter.await_wake(2)

    A topic that arrives between the look and the wait ends the wait at once, unless hints come faster than `pace`
    allows looks. One thread or task waits at a time.
    Raises ImproperlyConfigured on entry for an address that `check_url` refuses.
    """

    def __init__(self, topics: Iterable[str], pace: Pace | None = None) -> None:
        if isinstance(topics, str):
            raise TypeError(f"Waiter takes a list of topics, not a string. Write Waiter([{topics!r}]).")
        self._topics = frozenset(topics)
        self._pace = pace or calm()
        self._heard = threading.Event()
        self._wake: Callable[[], object] | None = None
        self._subscription: Subscription | None = None

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; True if a wake-up arrived since the last True: look again."""
        deadline = time.monotonic() + timeout
        if self._heard.wait(timeout):
            time.sleep(self._pause(deadline))
        return self._take()

    async def await_wake(self, timeout: float) -> bool:
        """`wait` for coroutines."""
        deadline = time.monotonic() + timeout
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        # Set before the flag is read: a wake-up in between finds the one or the other.
        self._wake = lambda: loop.call_soon_threadsafe(_finish, woken)
        try:
            if not self._heard.is_set():
                await asyncio.wait([woken], timeout=timeout)
        finally:
            self._wake = None
        if self._heard.is_set():
            await asyncio.sleep(self._pause(deadline))
        return self._take()

    def _pause(self, deadline: float) -> float:
        return max(0.0, min(self._pace.pause(), deadline - time.monotonic()))

    def _take(self) -> bool:
        taken = self._heard.is_set()
        self._heard.clear()
        if taken:
            self._pace.step()
        return taken

    def _hear(self, topic: str) -> None:
        if topic in self._topics:
            self._hear_something()

    def _hear_something(self) -> None:
        self._heard.set()
        if wake := self._wake:
            wake()

    def __enter__(self) -> Waiter:
        self._subscription = listen(self._hear, flooded=self._hear_something)
        with self._closed_on_error():
            self._subscription.settle(SETTLE)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._subscription is not None:
            self._subscription.close()

    async def __aenter__(self) -> Waiter:
        self._subscription = listen(self._hear, flooded=self._hear_something)
        with self._closed_on_error():
            if not self._subscription.settled:
                await asyncio.to_thread(self._subscription.settle, SETTLE)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:  # cancelled, interrupted
            self.__exit__()
            raise


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
