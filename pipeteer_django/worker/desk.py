"""The database thread's side of a worker: it looks, sweeps, takes turns, and tells the world what they did."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.db import DatabaseError, InterfaceError, connections, router

from pipeteer_django.pipelines.outcome import Released
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import Kept
from pipeteer_django.queues.database import end_session, is_disconnect, single_writer
from pipeteer_django.queues.figures import without_tables
from pipeteer_django.queues.prune import Pruner
from pipeteer_django.queues.sweep import Sweeper
from pipeteer_django.queues.tickets import Ticket
from pipeteer_django.queues.turn import Appetite, Turn, take_turn, ticket_of
from pipeteer_django.wakeups import publish, tell_changed
from pipeteer_django.worker.attempts import Attempt
from pipeteer_django.worker.hesitation import TAKEN
from pipeteer_django.worker.intake import Intake
from pipeteer_django.worker.reports import report_settled, report_started

logger = logging.getLogger("pipeteer_django.worker")

LATER = 0.03
"""Seconds before a ticket whose row was locked by somebody is tried again."""


@dataclass(slots=True)
class Work:
    """What the loop hands the database thread for one turn."""

    tickets: list[Ticket]
    slots: int
    threads: int
    alone: bool
    look: bool
    hints: frozenset[str]
    """Ids of pipelines that were said to have work, if that is why to look."""
    sweep: bool


class Desk:
    """Every method is called on the database thread, which owns one connection."""

    def __init__(self, pipelines: Sequence[Pipeline[Any, Any]], *, using: str, label: str, kept: Kept) -> None:
        self.intake = Intake(pipelines, using, label)
        self._using, self._label, self._kept = using, label, kept
        self._serves = frozenset(pipeline.id for pipeline in pipelines)

    def work(self, work: Work) -> Turn:
        """Sweep and look if it is time to, then take a turn if there is anything for one; prune if there is not."""
        if work.sweep:
            overlooked = self._sweeper.sweep(self.intake.priorities)
            for topic in overlooked:
                publish(topic)
            tell_changed(overlooked)
        trusted = bool(work.hints) and not single_writer(self._using)
        if trusted:
            self.intake.trust(work.hints)
        elif work.hints:
            # On SQLite a turn takes the only lock there is, looking takes none.
            self.intake.glance(work.hints)
        elif work.look:
            self.intake.look()
        targets = self.intake.targets(work.threads) if work.slots else []
        if not work.tickets and not targets:
            if work.sweep and not self.intake.hot:
                self._prune()
            return Turn()
        appetite = Appetite(self._label, work.slots, work.threads, work.alone, targets, self._serves, self._kept)
        turn = take_turn(work.tickets, appetite, using=self._using)
        self.tell(turn)
        if len(turn.claims) < work.slots:
            for id in work.hints & {claim.pipeline.id for claim in turn.claims}:
                if not self.intake.is_hot(id):
                    publish(TAKEN + id)  # so that fifty others need not look; who has no place left stays silent
        if trusted and not turn.claims:
            self.intake.glance(work.hints)  # it may be due later, or have a priority not met before
        return turn

    # Made on the database thread: they look which tables there are.

    @cached_property
    def _living(self) -> list[Pipeline[Any, Any]]:
        return _living_in(self._using)

    @cached_property
    def _sweeper(self) -> Sweeper:
        return Sweeper(self._living, self._using)

    @cached_property
    def _pruner(self) -> Pruner:
        return Pruner(self._living, self._using)

    def _prune(self) -> None:
        """A page of one pipeline's history. No worker stops because something cannot be deleted."""
        try:
            self._pruner.prune()
        except Exception as error:
            if is_disconnect(error):
                raise
            logger.exception("Could not prune; going on.")

    def tell(self, turn: Turn) -> None:
        """Publish and report what a committed turn did."""
        self.intake.learn(turn)
        for topic in turn.topics:
            publish(topic)
        tell_changed(turn.changed)
        report_settled(turn.settled)
        report_started(turn.claims)
        if turn.settled.dropped:
            logger.info("%d late results were dropped: their steps were cancelled.", turn.settled.dropped)

    def release(self, left: Sequence[Attempt], patience: float) -> None:
        """Hand back what still runs, its attempt not counted; gives up after `patience` seconds."""
        tickets = [ticket_of(attempt.claim, Released()) for attempt in left]
        deadline = time.monotonic() + patience
        try:
            for attempt in left:
                if attempt.session is not None:
                    # An atomic body holds its row's lock; only the end of its session frees it.
                    end_session(self._using, attempt.session)
            while tickets and time.monotonic() < deadline:
                turn = take_turn(tickets, Appetite(self._label), using=self._using)
                self.tell(turn)
                tickets = turn.settled.later
                time.sleep(LATER if tickets else 0)
        except (DatabaseError, InterfaceError) as error:
            logger.error("Could not hand entries back; their leases will run out: %s", error)

    def disconnect(self) -> None:
        """Drop the connection; the next statement makes another."""
        connections[self._using].close()


def _living_in(using: str) -> list[Pipeline[Any, Any]]:
    """All pipelines of a database: a sweep repairs those that no worker runs, too."""
    pipelines = [pipeline for pipeline in registry if router.db_for_write(pipeline.Input) == using]
    lacking = without_tables(using, pipelines)
    if lacking:
        names = ", ".join(sorted(pipeline.id for pipeline in lacking))
        logger.warning("No tables for %s, so nothing is repaired there. Run: python manage.py migrate", names)
    return [pipeline for pipeline in pipelines if pipeline not in lacking]
