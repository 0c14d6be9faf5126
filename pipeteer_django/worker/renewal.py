"""The renewal thread: keeps leases and the heartbeat, on a connection of its own, and watches the event loop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from django.db import DatabaseError, InterfaceError, connections

from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import Claim, lease
from pipeteer_django.queues.renew import heartbeat, renew, sign_off
from pipeteer_django.worker.lag import Lag

logger = logging.getLogger("pipeteer_django.worker")

_LOOK = 0.5
"""Seconds between two looks at the event loop."""


class Renewal:
    """Renews what `held()` says this worker runs; entries that turn out to be lost are handed to `lost`."""

    def __init__(
        self,
        *,
        label: str,
        using: str,
        pipelines: Sequence[Pipeline[Any, Any]],
        held: Callable[[], Sequence[Claim]],
        lost: Callable[[Pipeline[Any, Any], dict[int, int]], None],
        lag: Lag,
        watch: Callable[[Callable[[], None]], None],
    ) -> None:
        self._label, self._using, self._pipelines = label, using, pipelines
        self._held, self._lost, self._lag, self._watch = held, lost, lag, watch
        self._every = min([lease(pipeline).total_seconds() for pipeline in pipelines] or [30.0]) / 3
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pipeteer-renewal", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and sign this worker off."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        due, looked = 0.0, time.monotonic()
        pause = min(_LOOK, self._every / 2)
        while not self._stop.wait(pause):
            before, looked = looked, time.monotonic()
            if looked - before > pause + 1:
                continue  # the whole process was paused: the event loop needs a moment, too
            if self._lag.stuck():
                continue  # an event loop that does not turn loses its leases
            if time.monotonic() >= due:
                due = time.monotonic() + self._every
                self._guarded(self._renew)
        self._guarded(lambda: sign_off(self._using, self._label))
        connections[self._using].close()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            self._watch(work)
        except (DatabaseError, InterfaceError) as error:
            # The worker's own turns say that the database is gone; saying it twice would not help.
            logger.debug("Renewal failed: %s", error)
            connections[self._using].close()
        except Exception:
            # This thread must not end: every lease would be lost in silence.
            logger.exception("Renewing leases failed; trying again.")

    def _renew(self) -> None:
        by_pipeline: dict[Pipeline[Any, Any], dict[int, int]] = {}
        for claim in self._held():
            by_pipeline.setdefault(claim.pipeline, {})[claim.id] = claim.epoch
        for pipeline, held in by_pipeline.items():
            gone = renew(pipeline, self._using, held, self._label)
            if gone:
                self._lost(pipeline, {id: held[id] for id in gone})
        names = ", ".join(sorted(pipeline.id for pipeline in self._pipelines))
        running = sum(map(len, by_pipeline.values()))
        heartbeat(self._using, self._label, pipelines=names, doing=f"{running} running")
