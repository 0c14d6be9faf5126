"""A worker in small, on this thread, whose clock the test moves: what it does in a second may be a month of a run's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.utils import timezone

from pipeteer_django.pipelines.outcome import Outcome
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import Claim, plain
from pipeteer_django.queues.database import durable, nested
from pipeteer_django.queues.sweep import Sweeper
from pipeteer_django.queues.tickets import Settled, Ticket
from pipeteer_django.queues.turn import Appetite, Turn, take_turn, ticket_of
from pipeteer_django.worker.attempts import Attempt, refuse, run_on_thread
from pipeteer_django.worker.warm import Warm

ROUNDS = 5_000


class Clockwork:
    """Takes turns until nothing is ready. It keeps `size` runs in memory; with 0 every wake-up is a replay."""

    def __init__(self, size: int, monkeypatch: Any) -> None:
        self.warm = Warm(size, "by hand")
        self.ahead = timedelta(0)
        self.most_live: dict[str, int] = {}
        """The most rows that a queue held after any turn, for the queues in it."""
        self.serves: frozenset[str] = frozenset()
        """Pipelines that a turn may claim from as soon as it has made work for them."""
        self._tickets: list[Ticket] = []
        self._monkeypatch = monkeypatch

    # Code

    def play(self, *scripts: tuple[Any, Callable[..., Any]]) -> None:
        """Give workflows other code, as a deployment does: what was kept in memory is gone."""
        self.forget()
        for pipeline, function in scripts:
            self._monkeypatch.setattr(pipeline, "function", function)

    def forget(self) -> None:
        """The worker is started anew."""
        self.warm.close()
        self.warm = Warm(self.warm._size, "by hand")

    # Time

    @property
    def now(self) -> datetime:
        """What the clock says."""
        return timezone.now() + self.ahead

    def later(self, *pipelines: Pipeline[Any, Any], **duration: float) -> int:
        """Let time go by, and do what is due then."""
        self.ahead += timedelta(**duration)
        return self.run(*pipelines)

    # Work

    def run(self, *pipelines: Pipeline[Any, Any]) -> int:
        """Run these (all if none are named) until nothing is ready; returns how many attempts were made."""
        attempts = 0
        for _ in range(ROUNDS):
            settles = bool(self._tickets)
            claims = self.step(*pipelines)
            if not claims and not settles:
                return attempts
            attempts += len(claims)
        raise AssertionError("It comes to no end.")

    def step(self, *pipelines: Pipeline[Any, Any]) -> list[Claim]:
        """One turn, and the bodies of what it claimed; their outcomes wait for the next."""
        turn = self.turn(self.targets(*pipelines), self.serves)
        for claim in turn.claims:
            outcome = self.outcome(claim)
            if isinstance(outcome, Settled) or outcome is None:
                continue
            self._tickets.append(ticket_of(claim, outcome, self.warm.holder))
        for pipeline in pipelines:
            rows = plain(pipeline.Input, "default").count()
            self.most_live[pipeline.id] = max(rows, self.most_live.get(pipeline.id, 0))
        return turn.claims

    def turn(self, targets: Any = (), serves: frozenset[str] = frozenset()) -> Turn:
        """Only the transaction: settle what waits for it, claim from these."""
        tickets, self._tickets = self.warm.advance(self._tickets), []
        appetite = Appetite("by hand", 100, 100, True, targets, serves, self.warm.kept, self.ahead)
        commit = nested if connection.in_atomic_block else durable
        turn = take_turn(tickets, appetite, using="default", commit=commit)
        self.warm.settled(turn.settled)
        self._tickets += turn.settled.later
        return turn

    def outcome(self, claim: Claim) -> Any:
        """Run what was claimed."""
        refused: Outcome | None = refuse(claim)
        if refused is not None:
            return refused
        if claim.pipeline.kind == "workflow":
            return self.warm.run(claim)
        return run_on_thread(Attempt(claim, None, "default"), nested if connection.in_atomic_block else durable)

    def hold(self, claim: Claim, outcome: Any) -> None:
        """Let an outcome wait for the next turn."""
        self._tickets.append(ticket_of(claim, outcome, self.warm.holder))

    def targets(self, *pipelines: Pipeline[Any, Any]) -> list[tuple[Pipeline[Any, Any], int]]:
        """Where something is ready, highest priority first."""
        chosen = dict(enumerate(pipeline for pipeline in pipelines or registry if pipeline.runs_here))
        looks = " UNION ".join(
            f"SELECT {number}, priority FROM {pipeline.Input._meta.db_table} WHERE available_at <= %s"
            for number, pipeline in chosen.items()
        )
        with connection.cursor() as cursor:
            cursor.execute(looks, [connection.ops.adapt_datetimefield_value(self.now)] * len(chosen))
            ready = [(chosen[number], priority) for number, priority in cursor.fetchall()]
        return sorted(ready, key=lambda target: (-target[1], target[0].id))

    def sweep(self, *pipelines: Pipeline[Any, Any]) -> set[str]:
        """Every pipeline's turn of a sweep."""
        sweeper, topics = Sweeper(pipelines, "default"), set[str]()
        for _ in pipelines:
            topics |= sweeper.sweep()
        return topics
