"""A worker hosts the wake-up proxy while nobody else does, and takes it over when its host dies.

With CURVE keys it does so only where it has the proxy's secret key.
"""

from __future__ import annotations

import asyncio
import logging

from pipeteer_django.conf import settings
from pipeteer_django.wakeups import Proxy, answers, may_host

logger = logging.getLogger("pipeteer_django.worker")

_EVERY = 1.0
"""Seconds between two tries to take the proxy's addresses: cheap, they are just bound."""


class Host:
    """Tries to bind the proxy's addresses until it succeeds."""

    def __init__(self) -> None:
        self._proxy = Proxy(settings().PUB_URL, settings().SUB_URL)
        self._hosting = False

    async def first_try(self) -> str:
        """Try once and say in words how wake-ups will travel."""
        if not settings().WAKEUPS:
            return "off, polling only"
        if settings().HOST_PROXY and await asyncio.to_thread(self._try):
            return f"hosted here ({settings().PUB_URL} -> {settings().SUB_URL})"
        if await asyncio.to_thread(answers, 2.0):
            return f"at {settings().SUB_URL}"
        logger.warning(
            "No proxy answers at %s and %s: wake-ups are lost and everything waits for polling (every %s s). If "
            'another program uses these ports, choose others in PIPETEER["PUB_URL"] and ["SUB_URL"].',
            settings().PUB_URL, settings().SUB_URL, settings().POLL_INTERVAL,
        )  # fmt: skip
        return "none answers, polling"

    async def keep_trying(self) -> None:
        """Take the proxy over as soon as its addresses are free. Runs until cancelled."""
        while settings().WAKEUPS and settings().HOST_PROXY and not self._hosting:
            await asyncio.sleep(_EVERY)
            if await asyncio.to_thread(self._try):
                logger.info("Nobody hosted the wake-up proxy any more; hosting it here.")

    def _try(self) -> bool:
        self._hosting = may_host() and self._proxy.start()
        return self._hosting

    def stop(self) -> None:
        """Free the addresses for the next host."""
        if self._hosting:
            self._proxy.stop()
