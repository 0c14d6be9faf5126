"""Notices a database that neither answers nor breaks the connection: a thread would wait for it for ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import connections

from pipeteer_django.conf import settings
from pipeteer_django.queues.database import single_writer
from pipeteer_django.worker.lag import TICK

logger = logging.getLogger("pipeteer_django.worker")

T = TypeVar("T")


def patience() -> float:
    """Seconds after which a worker process that is stuck is given up: its leases are long over then."""
    return max(10.0, 2 * settings().RESERVE.total_seconds())


@dataclass(slots=True)
class _Wait:
    """How many times the event loop has looked since a thread last had an answer."""

    looks: int = 0


class Deadline:
    """The engine's own threads say when they wait for the database; the event loop counts for how long.

    A line can be dead without a word: whatever keeps TCP alive is answered by the nearest proxy. Then the worker would
    hang, renew nothing, and never notice. `give_up` is called once some thread has waited longer than `patience` for
    one answer, without which (in a test's own process) it is only said.

    Each statement counts from its own beginning, so that long work which gets on is left alone. Looks are counted, and
    not time: a process that was paused has not waited. SQLite has no line, and bounds its waits by itself.
    """

    def __init__(self, using: str, give_up: Callable[[], None] | None = None) -> None:
        self._using, self._give_up = using, give_up
        self._longest = None if single_writer(using) else round(patience() / TICK)
        self._waits: dict[int, _Wait] = {}

    def watch(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do this, which asks the database, on this thread."""
        thread = threading.get_ident()
        wrappers = connections[self._using].execute_wrappers
        if self._count not in wrappers:
            wrappers.append(self._count)
        self._waits[thread] = _Wait()
        try:
            return work(*arguments)
        finally:
            del self._waits[thread]

    def _count(self, execute: Any, *statement: Any) -> Any:
        self._answered()
        try:
            return execute(*statement)
        finally:
            self._answered()

    def _answered(self) -> None:
        if wait := self._waits.get(threading.get_ident()):
            wait.looks = 0

    def look(self) -> None:
        """Called on the event loop at each of its ticks."""
        for wait in list(self._waits.values()):
            wait.looks += 1
            if wait.looks == self._longest:
                self._despair()

    def _despair(self) -> None:
        logger.error(
            "The database has not answered one statement for %.0f s, and the connection has not broken either: the "
            "line to it is dead, or somebody has locked a whole table. %s What ran here is taken over when its lease "
            "is over.",
            patience(), "Ending this process, for a supervisor to start another." if self._give_up else "Waiting on.",
        )  # fmt: skip
        if self._give_up:
            self._give_up()
