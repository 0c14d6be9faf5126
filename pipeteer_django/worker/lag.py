"""Notices an event loop that does not turn: an async activity that blocks it stops everything else."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

logger = logging.getLogger("pipeteer_django.worker")

TOLERATED = 1.4
"""Seconds; with the time between two looks a blocked loop is reported within two."""
TICK = 0.25
"""Seconds between two ticks of the loop."""


class Lag:
    """The loop ticks; other threads ask whether it still does."""

    def __init__(self, *at_each_tick: Callable[[], None]) -> None:
        self._at_each_tick = at_each_tick
        self._last = time.monotonic()
        self._thread = threading.get_ident()
        self._said = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin ticking on this loop."""
        self._thread = threading.get_ident()
        self._tick(loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._last = time.monotonic()
        self._said = False
        for call in self._at_each_tick:
            call()
        loop.call_later(TICK, self._tick, loop)

    def stuck(self) -> bool:
        """Whether the loop has not turned for a while; says so once, with the stack that blocks it."""
        silent = time.monotonic() - self._last
        if silent < TOLERATED:
            return False
        if not self._said:
            self._said = True
            frame = sys._current_frames().get(self._thread)
            stack = "".join(traceback.format_stack(frame)) if frame else "(no stack)"
            logger.warning(
                "The event loop has been blocked for %.1f s; its leases are not renewed meanwhile. Blocking work "
                "belongs in a sync activity (def, not async def). It is here:\n%s",
                silent, stack.rstrip(),
            )  # fmt: skip
        return True
