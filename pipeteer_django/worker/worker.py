"""The worker: an event loop that runs entries, and a database thread that takes turns.

One entry's way: a turn claims it, an attempt runs it, its outcome becomes a ticket, the next turn settles the ticket.
While a turn commits, other attempts finish and wait for the next: the busier it is, the more share one commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import DatabaseError, InterfaceError, ProgrammingError, connections
from django.utils.module_loading import import_string

from pipeteer_django.conf import settings
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import Claim
from pipeteer_django.queues.tickets import Settled, Ticket
from pipeteer_django.queues.turn import Turn, ticket_of
from pipeteer_django.wakeups import flush, listen
from pipeteer_django.worker.attempts import Ended
from pipeteer_django.worker.crew import Crew, Place
from pipeteer_django.worker.deadline import Deadline
from pipeteer_django.worker.desk import LATER, Desk, Work
from pipeteer_django.worker.hesitation import TAKEN, Hesitation
from pipeteer_django.worker.lag import Lag
from pipeteer_django.worker.renewal import Renewal
from pipeteer_django.worker.reports import Counts, log_failures, report_lost
from pipeteer_django.worker.warm import Warm

logger = logging.getLogger("pipeteer_django.worker")

_CALM = 0.02
"""Seconds between two looks that wake-ups cause: a flood of hints costs looks at a bounded rate."""
_AGAIN = 0.2
"""Seconds between two checks of a condition that no event announces."""
_LONGEST_OUTAGE_PAUSE = 5.0
_PATIENCE = 1.0
"""Seconds after the grace for outcomes whose rows are locked, and for handing back."""

_UNSPEAKABLE = re.compile(r"[^A-Za-z0-9._-]")

T = TypeVar("T")


class Worker:
    """Runs pipelines of one database until stopped, or until nothing is left if `drain`."""

    def __init__(
        self,
        pipelines: Sequence[Pipeline[Any, Any]],
        *,
        using: str,
        concurrency: int | None = None,
        grace: float | None = None,
        drain: bool = False,
        beat: Callable[[], None] | None = None,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        self.pipelines = [pipeline for pipeline in pipelines if pipeline.runs_here]
        self.using = using
        self.label = f"{_UNSPEAKABLE.sub('-', socket.gethostname())[:60]}-{os.getpid()}-{secrets.token_hex(6)}"
        self.concurrency = concurrency or settings().CONCURRENCY
        self.counts = Counts()
        self.stopped = threading.Event()
        self._grace = settings().GRACE if grace is None else grace
        self._drain = drain
        self._deadline = Deadline(using, give_up)
        self._lag = Lag(*filter(None, [beat]), self._deadline.look)
        self._serves = frozenset(pipeline.id for pipeline in self.pipelines)
        self._tickets: list[Ticket] = []
        self._claims: dict[Place, Claim] = {}
        """What this process holds: it runs, or waits to be settled."""
        self._stop_at: float | None = None
        self._heeded = self._follow_at = self._sweep_at = 0.0
        self._nudge = asyncio.Event()
        self._hints: set[str] = set()
        """Ids heard of since hints were last heeded; changed on the loop's thread only."""
        self._hesitation = Hesitation()
        self._suspect_waits = False
        self._outage = 0
        self._warm = Warm(settings().CACHE_SIZE, self.label)
        self._desk = Desk(self.pipelines, using=using, label=self.label, kept=self._warm.kept)
        self._intake = self._desk.intake
        self._database = ThreadPoolExecutor(1, thread_name_prefix="pipeteer-database")
        threads = min(self.concurrency, settings().THREADS)
        self._crew = Crew(self.concurrency, threads, using, _users_context(), self._warm.run, self._ended)

    # From outside

    def stop(self, grace: float | None = None) -> None:
        """Claim nothing more; finish within `grace` seconds or hand back what runs. Call it on the loop's thread."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + (self._grace if grace is None else grace)
            self._nudge.set()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop_at is not None

    @property
    def running(self) -> int:
        """How many entries it runs now."""
        return len(self._crew)

    @property
    def left_behind(self) -> bool:
        """Whether there are threads that would keep the process alive."""
        return self._crew.left_behind

    async def remaining(self) -> int:
        """How many entries are left in its queues."""
        return await self._on_database(self._intake.remaining)

    # The loop

    async def main(self) -> None:
        """The whole life of the worker, on a running event loop."""
        self._loop = asyncio.get_running_loop()
        log_failures()
        self._lag.start(self._loop)
        renewal = Renewal(
            label=self.label,
            using=self.using,
            pipelines=self.pipelines,
            held=lambda: list(self._claims.values()),
            lost=self._lost,
            lag=self._lag,
            watch=self._deadline.watch,
        )
        renewal.start()
        try:
            with listen(self._hear, flooded=self._hear_flood):
                while not await self._finished():
                    await self._turn()
                    await self._rest()
            await self._hand_back()
        finally:
            # Leases are kept until everything is settled or handed back.
            await asyncio.to_thread(renewal.stop)
            self._database.submit(connections.close_all)
            self._database.shutdown(wait=not self.left_behind)
            self._crew.close()
            self._warm.close()
            flush(1.0)
            self.stopped.set()

    async def _finished(self) -> bool:
        if self._stop_at is not None and time.monotonic() >= self._stop_at + _PATIENCE:
            return True  # some outcomes cannot be settled: their rows are locked by somebody
        if self._tickets or self._outage:
            return False
        if self._stop_at is not None:
            return not self._crew or time.monotonic() >= self._stop_at
        if not self._drain or self._crew or self._intake.hot or not self._intake.looked:
            return False
        try:
            return await self._on_database(self._intake.exhausted)
        except (DatabaseError, InterfaceError) as error:
            await self._wait_for_database(error)
            return False

    async def _on_database(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._loop.run_in_executor(self._database, self._deadline.watch, function, *arguments)

    async def _turn(self) -> None:
        self._nudge.clear()
        now = time.monotonic()
        tickets, self._tickets = self._warm.advance(self._tickets), []
        slots = self._slots()
        look = slots > 0 and now >= self._next_look()
        hints = frozenset(self._hints) if look and now < self._intake.next_look else frozenset[str]()
        work = Work(tickets, slots, self._crew.thread_room, self._crew.alone, look, hints, now >= self._sweep_at)
        if look:
            self._hints.clear()
            self._heeded = now
        try:
            turn = await self._on_database(self._desk.work, work)
        except (DatabaseError, InterfaceError) as error:
            self._tickets = tickets + self._tickets
            self._intake.forget()
            await self._wait_for_database(error)
            return
        self._back_again()
        if turn.claims:
            self._hesitation.found()
        elif hints:
            self._hesitation.in_vain()
        if work.sweep:
            self._sweep_at = now + settings().SWEEP_INTERVAL
        self._take(turn)

    def _slots(self) -> int:
        if self.stopping or (self._suspect_waits and not self._crew.alone):
            return 0
        return self._crew.room

    def _next_look(self) -> float:
        """When the queues are to be looked at again: soon after a wake-up, at a due time, or by polling."""
        next_look = self._intake.next_look
        return min(next_look, self._follow_at) if self._hints else next_look

    def _take(self, turn: Turn) -> None:
        if self._crew.all_stuck and not self.stopping:
            logger.error(
                "All threads are held by bodies past their timeout. Stopping, so that a supervisor replaces me."
            )
            self.stop()
        self.counts.add(turn.settled)
        # A turn that was to claim nothing has not looked: the suspect waits on, until nothing runs beside it.
        self._suspect_waits = turn.suspect_waits or (self._suspect_waits and not self._crew.alone)
        self._tickets += turn.settled.later
        self._forget(turn.settled)
        self._warm.settled(turn.settled)
        self.counts.replayed = self._warm.replayed
        for claim in turn.claims:
            self._claims[claim.pipeline.id, claim.id] = claim
            self._crew.start(claim)

    def _forget(self, settled: Settled) -> None:
        for ticket in [*settled.done, *settled.lost]:
            self._claims.pop((ticket.pipeline.id, ticket.id), None)

    async def _rest(self) -> None:
        """Wait for whatever comes first: an outcome, a wake-up, a due time, the stop."""
        slots = self._slots()
        if slots and self._intake.has_work(self._crew.thread_room):
            return
        if self.stopping and not self._crew and not self._tickets:
            return
        now = time.monotonic()
        moments = [self._sweep_at]
        if slots:
            moments.append(self._next_look())
        if self._tickets:
            moments.append(now + LATER)
        if self._suspect_waits or self._drain:
            moments.append(now + _AGAIN)
        if self._stop_at is not None:
            moments.append(max(self._stop_at, now + LATER))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(moments) - now)):
                await self._nudge.wait()

    def _lost(self, pipeline: Pipeline[Any, Any], epochs: dict[int, int]) -> None:
        """Called by the renewal thread: somebody else has these now."""
        self._loop.call_soon_threadsafe(self._crew.abandon, pipeline.id, epochs)

    def _ended(self, claim: Claim, ended: Ended) -> None:
        """Called by the crew."""
        if isinstance(ended, Settled):
            # An atomic activity committed its own outcome; its wake-ups and reports are still to be sent.
            self.counts.add(ended)
            self._database.submit(self._announce, Turn(ended))
        elif ended is None:
            self.counts.lost += 1
            self._claims.pop((claim.pipeline.id, claim.id), None)
            self._database.submit(report_lost, claim)
        else:
            self._tickets.append(ticket_of(claim, ended, self._warm.holder))
        self._nudge.set()

    def _announce(self, turn: Turn) -> None:
        """On the database thread."""
        self._desk.tell(turn)
        self._loop.call_soon_threadsafe(self._forget, turn.settled)
        self._loop.call_soon_threadsafe(self._nudge.set)

    # Wake-ups

    def _hear(self, topic: str) -> None:
        """On the subscriber's thread. One call into the loop is enough for a flood of hints."""
        if topic in self._serves and topic not in self._hints:
            self._loop.call_soon_threadsafe(self._heed, topic)
        elif topic.startswith(TAKEN) and topic.removeprefix(TAKEN) in self._hints:
            self._loop.call_soon_threadsafe(self._leave, topic.removeprefix(TAKEN))

    def _hear_flood(self) -> None:
        """On the subscriber's thread. Some hints were not heard: any of its queues may have work."""
        for topic in self._serves:
            self._hear(topic)

    def _heed(self, topic: str) -> None:
        now = time.monotonic()
        if not self._hints:
            self._follow_at = max(self._heeded + _CALM, now + self._hesitation.pause())
        self._hints.add(topic)
        if self._follow_at > now:
            self._loop.call_later(self._follow_at - now, self._nudge.set)
        else:
            self._nudge.set()

    def _leave(self, topic: str) -> None:
        # What was taken may be older than this hint. So whoever found work last does not leave it: somebody looks.
        if self._hesitation.stands_back:
            self._hints.discard(topic)

    # A database that is gone for a while

    async def _wait_for_database(self, error: Exception) -> None:
        self._outage += 1
        if self._outage == 1:
            hint = " Have the migrations run? python manage.py migrate" if isinstance(error, ProgrammingError) else ""
            words = " ".join(str(error).split())
            logger.error("The database does not answer, trying again until it does: %s%s", words, hint)
        await self._on_database(self._desk.disconnect)
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self._tickets.clear()
            self._outage = 0
            return
        pause = min(_LONGEST_OUTAGE_PAUSE, 0.1 * 2 ** min(self._outage, 10))
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    def _back_again(self) -> None:
        if self._outage:
            logger.warning("The database answers again.")
            self._outage = 0

    # The end

    async def _hand_back(self) -> None:
        """Release what still runs, its attempt not counted."""
        left = self._crew.dismiss()
        if left:
            logger.warning("Handing back %d entries that did not finish within %.0f s.", len(left), self._grace)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * _PATIENCE):
                    await self._on_database(self._desk.release, left, _PATIENCE)


def _users_context() -> Any:
    path = settings().CONTEXT
    return import_string(path)() if path else None
