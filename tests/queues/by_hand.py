"""What a worker does, step by step and on this thread: tests look at what is in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from django.db import connection, connections
from django.utils import timezone

from pipeteer_django.pipelines.outcome import Outcome
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import Claim, plain
from pipeteer_django.queues.database import Strategy, durable, nested
from pipeteer_django.queues.tickets import Settled
from pipeteer_django.queues.turn import Appetite, Turn, take_turn, ticket_of
from pipeteer_django.testing import drain

drain_anyway = partial(drain, raise_failures=False)
"""For tests that look at failures in the rows."""


def _commit() -> Strategy:
    return nested if connection.in_atomic_block else durable


def turn(
    claims: Sequence[tuple[Claim, Outcome]] = (), *targets: tuple[Pipeline[Any, Any], int], slots: int = 0
) -> Turn:
    """Settle these and claim from those."""
    tickets = [ticket_of(claim, outcome) for claim, outcome in claims]
    appetite = Appetite("by hand", slots, slots, True, targets)
    return take_turn(tickets, appetite, using="default", commit=_commit())


def claim_all(pipeline: Pipeline[Any, Any], limit: int = 1000, priority: int = 0) -> list[Claim]:
    """Claim what is ready, as a worker would."""
    return turn((), (pipeline, priority), slots=limit).claims


def claim_one(pipeline: Pipeline[Any, Any], priority: int = 0) -> Claim:
    """Claim the oldest entry."""
    (claim,) = claim_all(pipeline, 1, priority)
    return claim


def settle(claim: Claim, outcome: Outcome) -> Settled:
    """End a claim with this outcome."""
    return turn([(claim, outcome)]).settled


def engine(pipeline: Pipeline[Any, Any], **columns: Any) -> int:
    """Write engine columns of every entry, which users' own QuerySets refuse."""
    return plain(pipeline.Input, "default").update(**columns)


def overdue(pipeline: Pipeline[Any, Any]) -> None:
    """Make what is delayed, backing off or leased due now."""
    ago = timezone.now() - timedelta(minutes=1)
    plain(pipeline.Input, "default").filter(available_at__isnull=False).update(available_at=ago)


def state(entry: Any) -> tuple[Any, ...]:
    """What must not change when nothing may happen to a row."""
    row = plain(type(entry), "default").filter(pk=entry.pk).values().first()
    return tuple(row.items()) if row else ()


def in_threads(*work: Callable[[], Any]) -> list[Any]:
    """Run all at once, each with a connection of its own; their results in order, exceptions included."""
    results: list[Any] = [None] * len(work)

    def run(number: int) -> None:
        try:
            results[number] = work[number]()
        except Exception as error:
            results[number] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results
