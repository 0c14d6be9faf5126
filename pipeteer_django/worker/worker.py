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
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.db import DatabaseError, InterfaceError, ProgrammingError, connections
from django.utils.module_loading import import_string

from pipeteer_django.conf import settings
from pipeteer_django.pipelines.outcome import Outcome, Released
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import Claim, lease
from pipeteer_django.queues.database import end_session
from pipeteer_django.queues.settle import Settled, Ticket
from pipeteer_django.queues.sweep import Sweeper
from pipeteer_django.queues.turn import Appetite, Turn, take_turn, ticket_of
from pipeteer_django.wakeups import flush, listen, publish
from pipeteer_django.worker.attempts import Attempt, Ended, refuse, run_on_loop, run_on_thread, run_workflow
from pipeteer_django.worker.intake import Intake
from pipeteer_django.worker.lag import Lag
from pipeteer_django.worker.renewal import Renewal
from pipeteer_django.worker.reports import log_failures, report_settled, report_started

logger = logging.getLogger("pipeteer_django.worker")

_LATER = 0.03
"""Seconds before a ticket whose row was locked by somebody is tried again."""
_CALM = 0.02
"""Seconds between two looks that wake-ups cause: a flood of hints costs looks at a bounded rate."""
_AGAIN = 0.2
"""Seconds between two checks of a condition that no event announces."""
_LONGEST_OUTAGE_PAUSE = 5.0

T = TypeVar("T")


@dataclass(slots=True)
class Counts:
    """What a worker did, for its last log line and for progress displays."""

    done: int = 0
    waiting: int = 0
    retried: int = 0
    failed: int = 0
    lost: int = 0

    def add(self, settled: Settled) -> None:
        """Count a committed turn."""
        for ticket in settled.done:
            name = {"Done": "done", "Waiting": "waiting", "Retry": "retried", "Failed": "failed", "Parked": "failed"}
            attribute = name.get(type(ticket.outcome).__name__)
            if attribute:
                setattr(self, attribute, getattr(self, attribute) + 1)
        self.lost += len(settled.lost)

    def __str__(self) -> str:
        parts = f"{self.done} done, {self.waiting} suspensions, {self.retried} retries, {self.failed} given up"
        return parts + (f", {self.lost} lost leases" if self.lost else "")


@dataclass(slots=True)
class _Work:
    """What the loop hands the database thread for one turn."""

    tickets: list[Ticket]
    slots: int
    alone: bool
    look: bool
    sweep: bool


@dataclass(slots=True)
class _Running:
    attempt: Attempt
    since: float = field(default_factory=time.monotonic)
    task: asyncio.Future[Any] | None = None

    @property
    def fresh(self) -> bool:
        """Whether it has not yet survived one lease: until then it may be what kills the process."""
        return time.monotonic() - self.since < lease(self.attempt.claim.pipeline).total_seconds()


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
    ) -> None:
        self.pipelines = [pipeline for pipeline in pipelines if pipeline.runs_here]
        self.using = using
        self.label = f"{socket.gethostname()[:60]}-{os.getpid()}-{secrets.token_hex(6)}"
        self.counts = Counts()
        self.stopped = threading.Event()
        self.abandoned = False
        """Whether threads were left behind that nobody can stop."""
        self.concurrency = concurrency or settings().CONCURRENCY
        self._serves = frozenset(pipeline.id for pipeline in self.pipelines)
        self._grace = settings().GRACE if grace is None else grace
        self._drain = drain
        self._lag = Lag(beat)
        self._running: dict[tuple[str, int], _Running] = {}
        self._tickets: list[Ticket] = []
        self._claims: dict[tuple[str, int], Claim] = {}
        self._stop_at: float | None = None
        self._looked = self._look_at = self._sweep_at = 0.0
        self._woken = False
        self._suspect_waits = False
        self._outage = 0
        self._intake = Intake(self.pipelines, using)
        self._sweeper = Sweeper(pipelines, using)
        self._database = ThreadPoolExecutor(1, thread_name_prefix="pipeteer-database")
        self._bodies = ThreadPoolExecutor(self.concurrency, thread_name_prefix="pipeteer-body")
        self._app: Any = None

    # From outside

    def stop(self, grace: float | None = None) -> None:
        """Claim nothing more; finish within `grace` seconds or hand back what runs. Call it on the loop's thread."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + (self._grace if grace is None else grace)
            self._nudge.set()

    async def remaining(self) -> int:
        """How many entries are left in its queues."""
        return await self._on_database(self._intake.remaining)

    @property
    def running(self) -> int:
        """How many entries it runs now."""
        return len(self._running)

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop_at is not None

    # The loop

    async def main(self) -> None:
        """The whole life of the worker, on a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._nudge = asyncio.Event()
        self._app = import_string(settings().CONTEXT)() if settings().CONTEXT else None
        log_failures()
        self._lag.start(self._loop)
        renewal = Renewal(
            label=self.label, using=self.using, pipelines=self.pipelines, held=self._held, lost=self._lost, lag=self._lag
        )  # fmt: skip
        renewal.start()
        try:
            with listen(self._hear):
                while not await self._finished():
                    await self._turn()
                    await self._rest()
            await self._hand_back()
        finally:
            await asyncio.to_thread(renewal.stop)
            self._database.submit(connections.close_all)
            self._database.shutdown()
            self._bodies.shutdown(wait=False)
            flush(1.0)
            self.stopped.set()

    async def _finished(self) -> bool:
        if self._tickets or self._outage:
            return False
        if self.stopping:
            return not self._running or time.monotonic() >= (self._stop_at or 0)
        if not self._drain or self._running or self._intake.hot or not self._looked:
            return False
        return bool(await self._on_database(self._intake.exhausted))

    async def _on_database(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._loop.run_in_executor(self._database, function, *arguments)

    async def _turn(self) -> None:
        self._nudge.clear()
        now = time.monotonic()
        tickets, self._tickets = self._tickets, []
        slots = self._slots()
        look = slots > 0 and (self._woken or now >= self._look_at)
        work = _Work(tickets, slots, self._alone(), look, now >= self._sweep_at)
        if look:
            self._woken, self._looked = False, now
        try:
            turn = await self._on_database(self._in_database, work)
        except (DatabaseError, InterfaceError) as error:
            self._tickets = tickets + self._tickets
            self._look_at = 0.0
            await self._wait_for_database(error)
            return
        self._back_again()
        if look:
            self._look_at = now + self._until_next_look()
        if work.sweep:
            self._sweep_at = now + settings().SWEEP_INTERVAL
        self._take(turn)

    def _slots(self) -> int:
        if self.stopping or any(entry.attempt.claim.crashes and entry.fresh for entry in self._running.values()):
            return 0
        if self._suspect_waits and not self._alone():
            return 0
        return max(0, self.concurrency - len(self._running))

    def _alone(self) -> bool:
        return not any(entry.fresh for entry in self._running.values())

    def _until_next_look(self) -> float:
        due = self._intake.next_due
        return settings().POLL_INTERVAL if due is None else min(settings().POLL_INTERVAL, max(due, 0.001))

    def _take(self, turn: Turn) -> None:
        self.counts.add(turn.settled)
        self._suspect_waits = turn.suspect_waits
        self._tickets += turn.settled.later
        for ticket in [*turn.settled.done, *turn.settled.lost]:
            self._claims.pop((ticket.pipeline.id, ticket.id), None)
        for claim in turn.claims:
            self._start(claim)

    async def _rest(self) -> None:
        """Wait for whatever comes first: an outcome, a wake-up, a due time, the stop."""
        if self._intake.hot and self._slots():
            return
        now = time.monotonic()
        moments = [self._sweep_at]
        if self._slots():
            moments.append(self._look_at)
        if self._tickets:
            moments.append(now + _LATER)
        if self._suspect_waits or self._drain:
            moments.append(now + _AGAIN)
        if self._stop_at is not None:
            moments.append(max(self._stop_at, now + _LATER))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(moments) - now)):
                await self._nudge.wait()

    # Wake-ups

    def _hear(self, topic: str) -> None:
        """On the subscriber's thread. One call into the loop is enough for a flood of hints."""
        if topic in self._serves and not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._heed)

    def _heed(self) -> None:
        calm = self._looked + _CALM - time.monotonic()
        if calm > 0:
            self._loop.call_later(calm, self._nudge.set)
        else:
            self._nudge.set()

    # The database thread

    def _in_database(self, work: _Work) -> Turn:
        if work.sweep:
            for topic in self._sweeper.sweep():
                publish(topic)
        if work.look:
            self._intake.look()
        targets = self._intake.targets() if work.slots else []
        if not work.tickets and not targets:
            return Turn()
        appetite = Appetite(self.label, work.slots, work.alone, targets, self._serves)
        turn = take_turn(work.tickets, appetite, using=self.using)
        self._intake.learn(turn)
        for topic in turn.settled.topics:
            publish(topic)
        report_settled(turn.settled, self._claims)
        report_started(turn.claims)
        return turn

    async def _wait_for_database(self, error: Exception) -> None:
        self._outage += 1
        if self._outage == 1:
            hint = " Have the migrations run? python manage.py migrate" if isinstance(error, ProgrammingError) else ""
            logger.error("The database does not answer, trying again until it does: %s%s", str(error).strip(), hint)
        await self._on_database(self._close)
        if self.stopping and time.monotonic() >= (self._stop_at or 0):
            self._tickets.clear()
            self._outage = 0
            return
        pause = min(_LONGEST_OUTAGE_PAUSE, 0.1 * 2 ** min(self._outage, 10))
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    def _close(self) -> None:
        connections[self.using].close()

    def _back_again(self) -> None:
        if self._outage:
            logger.warning("The database answers again.")
            self._outage = 0

    # Attempts

    def _start(self, claim: Claim) -> None:
        place = (claim.pipeline.id, claim.id)
        self._claims[place] = claim
        running = self._running[place] = _Running(Attempt(claim, self._app, self.using))
        outcome = refuse(claim)
        if outcome is not None:
            self._end(place, running, outcome)
        elif claim.pipeline.kind == "workflow":
            # A callback of its own: a workflow's loop cannot be entered from within a task.
            self._loop.call_soon(self._replay, place, running)
        else:
            running.task = self._loop.create_task(self._attempt(place, running))

    def _replay(self, place: tuple[str, int], running: _Running) -> None:
        self._end(place, running, run_workflow(running.attempt.claim))

    async def _attempt(self, place: tuple[str, int], running: _Running) -> None:
        attempt = running.attempt
        if attempt.activity.is_async and not attempt.activity.atomic:
            self._end(place, running, await run_on_loop(attempt))
        else:
            await self._on_thread(place, running)

    async def _on_thread(self, place: tuple[str, int], running: _Running) -> None:
        attempt = running.attempt
        body = self._loop.run_in_executor(self._bodies, run_on_thread, attempt)
        try:
            async with asyncio.timeout(attempt.activity.timeout):
                self._end(place, running, await asyncio.shield(body))
        except TimeoutError as error:
            # The thread goes on, nobody can stop it; what it returns is discarded.
            attempt.abandoned.set()
            self.abandoned = True
            self._end(place, running, attempt.activity.after_error(error, attempt.claim.attempt))

    def _end(self, place: tuple[str, int], running: _Running, ended: Ended) -> None:
        if self._running.get(place) is not running:
            return
        del self._running[place]
        if isinstance(ended, Settled):
            self._settled_itself(ended)
        elif ended is None:
            self.counts.lost += 1
            self._claims.pop(place, None)
        else:
            self._tickets.append(ticket_of(running.attempt.claim, ended))
        self._nudge.set()

    def _settled_itself(self, settled: Settled) -> None:
        """An atomic activity committed its own outcome; its wake-ups and reports are still to be sent."""
        self.counts.add(settled)
        self._database.submit(self._announce, settled)

    def _announce(self, settled: Settled) -> None:
        turn = Turn(settled)
        self._intake.learn(turn)
        for topic in settled.topics:
            publish(topic)
        report_settled(settled, self._claims)
        for ticket in settled.done:
            self._claims.pop((ticket.pipeline.id, ticket.id), None)
        self._loop.call_soon_threadsafe(self._nudge.set)

    # Leases

    def _held(self) -> Sequence[Claim]:
        """Called by the renewal thread: what runs, and what waits to be settled."""
        return list(self._claims.values())

    def _lost(self, pipeline: Pipeline[Any, Any], epochs: dict[int, int]) -> None:
        """Called by the renewal thread: somebody else has these now."""
        self._loop.call_soon_threadsafe(self._abandon, pipeline.id, epochs)

    def _abandon(self, id: str, epochs: dict[int, int]) -> None:
        for run_id, epoch in epochs.items():
            running = self._running.get((id, run_id))
            if running is None or running.attempt.claim.epoch != epoch:
                continue  # settled, perhaps claimed again, since the renewal looked
            logger.warning("%s %r: its lease was lost; another worker may have it.", id, running.attempt.claim.key)
            running.attempt.abandoned.set()
            if running.task is not None and running.attempt.activity.is_async:
                running.task.cancel()

    # The end

    async def _hand_back(self) -> None:
        """Release what still runs, its attempt not counted."""
        left, self._running = self._running, {}
        if not left:
            return
        logger.warning("Handing back %d entries that did not finish within %.0f s.", len(left), self._grace)
        self.abandoned = True
        for running in left.values():
            running.attempt.abandoned.set()
            if running.task is not None:
                running.task.cancel()
        tickets = [ticket_of(running.attempt.claim, _RELEASED) for running in left.values()]
        sessions = [running.attempt.session for running in left.values() if running.attempt.session is not None]
        await self._on_database(self._release, tickets, sessions)

    def _release(self, tickets: list[Ticket], sessions: list[int]) -> None:
        try:
            for session in sessions:
                # An atomic body holds its row's lock; only the end of its session frees it.
                end_session(self.using, session)
            deadline = time.monotonic() + 1
            while tickets and time.monotonic() < deadline:
                settled = take_turn(tickets, Appetite(self.label), using=self.using).settled
                for topic in settled.topics:
                    publish(topic)
                tickets = settled.later
                time.sleep(_LATER if tickets else 0)
        except (DatabaseError, InterfaceError) as error:
            logger.error("Could not hand entries back; their leases will run out: %s", error)


_RELEASED: Outcome = Released()
