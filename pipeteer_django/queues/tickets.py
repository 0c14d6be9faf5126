"""The right to settle an entry, and what became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeteer_django.pipelines.outcome import Failure, Outcome
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.births import Place
from pipeteer_django.queues.claim import Claim


@dataclass(frozen=True, slots=True)
class Removed:
    """A person took the entry out of its queue: no output, and its caller gets StepFailed."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to settle one entry. `epoch` None means "as it is now": a person's, who holds the row's lock."""

    pipeline: Pipeline[Any, Any]
    id: int
    epoch: int | None
    outcome: Outcome | Removed
    deliveries: int = 0
    """The row's count of events when the run that led to this outcome read them."""
    caller: str = ""
    step_id: int | None = None
    parent: int | None = None
    """The calling run, where it is known."""
    at: datetime | None = None
    """When the outcome came about, by this process's clock; None: with the transaction."""
    claim: Claim | None = None
    """What it settles, for those who report it."""
    holder: str = ""
    """The worker that keeps the run in memory while it waits."""
    advanced_by: tuple[Place, ...] = ()
    """Entries by whose results, settled in this same turn, a sleeping run that nobody claimed was advanced in memory.

    It is settled only with all of them, and only if its row still sleeps under `epoch`.
    """

    @property
    def place(self) -> Place:
        """Where its row is."""
        return self.pipeline.id, self.id


@dataclass(slots=True)
class Settled:
    """What became of the tickets, and what to tell the world once the transaction has committed."""

    done: list[Ticket] = field(default_factory=list)
    lost: list[Ticket] = field(default_factory=list)
    """Their epoch had moved on: somebody else has the entry, or it is gone."""
    later: list[Ticket] = field(default_factory=list)
    """Their row, or their caller's, was locked: try again in a later turn."""
    cold: list[Ticket] = field(default_factory=list)
    """Runs advanced in memory that could not be settled: they were woken the ordinary way, forget what was kept."""
    born: dict[Place, dict[int, int]] = field(default_factory=dict)
    """The rows of the new steps of runs, by index."""
    claims: list[Claim] = field(default_factory=list)
    """New entries that were born claimed."""
    epochs: dict[Place, int] = field(default_factory=dict)
    """Of the runs that wait: their rows' epochs now."""
    outputs: set[str] = field(default_factory=set)
    """Names of the outputs that got a result, or whose run was given up."""
    ready: set[tuple[str, int]] = field(default_factory=set)
    """(pipeline id, priority) where entries became claimable."""
    soonest: float = math.inf
    """Seconds until the first of the entries moved is due, of those that are not yet."""
    dropped: int = 0
    """Results whose step was cancelled or done."""
    proved: bool = True
    """Its own commit was seen. False: only the rows, as they were afterwards, say that it happened."""

    @property
    def topics(self) -> set[str]:
        """The wake-ups to publish."""
        return self.outputs | {id for id, _ in self.ready}
