"""A turn: one transaction that settles what finished and claims into the free slots."""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, ProgrammingError, connections
from django.utils import timezone

from pipeteer_django.exceptions import LeaseLost
from pipeteer_django.pipelines.outcome import Failure, Outcome, Parked, Waiting
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.births import Cradle
from pipeteer_django.queues.claim import Claim, Kept, claim, nothing_kept
from pipeteer_django.queues.database import Strategy, begin, durable, is_by_server, is_contention, is_disconnect
from pipeteer_django.queues.peek import begin_turn
from pipeteer_django.queues.rows import lock
from pipeteer_django.queues.settle import settle
from pipeteer_django.queues.tickets import Settled, Ticket

logger = logging.getLogger("pipeteer_django.turn")

Target = tuple[Pipeline[Any, Any], int]
"""A pipeline and one of its priorities."""

_RERUNS = 8


@dataclass(slots=True)
class Appetite:
    """What a worker would like to claim."""

    worker: str
    slots: int = 0
    threads: int = 0
    """How many of the slots have a thread for an entry that needs one."""
    alone: bool = True
    """Nothing that this process runs could be harmed by an entry that kills it."""
    targets: Sequence[Target] = ()
    serves: frozenset[str] = frozenset()
    """Ids of pipelines that may be claimed as soon as this turn made work for them."""
    kept: Kept = nothing_kept
    """The runs that this process keeps in memory."""
    ahead: timedelta = timedelta(0)
    """How far a test has moved the time."""


@dataclass(slots=True)
class Turn:
    """What a turn did; valid only once it is known to have committed."""

    settled: Settled = field(default_factory=Settled)
    claims: list[Claim] = field(default_factory=list)
    emptied: set[tuple[str, int]] = field(default_factory=set)
    """Targets that had less than was asked for."""
    suspect_waits: bool = False

    @property
    def topics(self) -> set[str]:
        """The wake-ups to publish: not for work that this turn has itself claimed to the last entry."""
        return self.settled.outputs | {id for id, priority in self.settled.ready if (id, priority) not in self.emptied}

    @property
    def changed(self) -> set[str]:
        """Ids of the pipelines with rows that it changed, callers' steps included."""
        moved: list[Ticket | Claim] = [*self.settled.done, *self.claims]
        ids = {entry.pipeline.id for entry in moved} | {entry.caller for entry in moved}
        return (ids | {id for id, _ in self.settled.ready}) - {""}


def ticket_of(claim: Claim, outcome: Outcome, holder: str = "") -> Ticket:
    """The right to settle a claim with this outcome, which came about now. `holder` keeps the run in memory."""
    return Ticket(
        claim.pipeline, claim.id, claim.epoch, outcome, claim.deliveries, claim.caller, claim.step_id,
        at=timezone.now() + claim.ahead, claim=claim, holder=holder,
    )  # fmt: skip


def take_turn(tickets: Sequence[Ticket], appetite: Appetite, *, using: str, commit: Strategy = durable) -> Turn:
    """Settle and claim in one transaction, rerun on contention; a value the database refuses parks its entry alone.

    Raises DatabaseError or InterfaceError when the database is gone, or takes no writes, and nothing was committed:
    keep the tickets and come again.
    """
    try:
        return _rerun(tickets, appetite, using, commit)
    except Exception as error:
        if not tickets or is_by_server(error) or isinstance(error, ProgrammingError):
            raise
        return _one_by_one(tickets, error, using, commit)


def _rerun(tickets: Sequence[Ticket], appetite: Appetite, using: str, commit: Strategy) -> Turn:
    for number in range(_RERUNS):
        try:
            return _proved(tickets, appetite, using, commit)
        except (DatabaseError, LeaseLost) as error:
            # A key that was taken while the turn looked will be seen by the next.
            again = isinstance(error, LeaseLost) or (isinstance(error, IntegrityError) and number == 0)
            if not (again or is_contention(error)) or number == _RERUNS - 1:
                raise
            time.sleep(random.uniform(0.2, 1.0) * 0.01 * 2**number)
    raise AssertionError("unreachable")


def _proved(tickets: Sequence[Ticket], appetite: Appetite, using: str, commit: Strategy) -> Turn:
    turn = Turn()
    committing = False
    try:
        with commit(using) as proof:
            _do(turn, tickets, appetite, using)
            committing = True
    except (DatabaseError, InterfaceError) as error:
        if not committing or not is_disconnect(error):
            raise
        claims = resolve(turn.settled, turn.claims, using, appetite.worker, commit)
        if claims is None:
            raise
        turn.claims, turn.settled.proved = claims, False
        return turn
    if not proof.proved:
        raise OperationalError("The turn's transaction ended without a commit.")
    return turn


def _do(turn: Turn, tickets: Sequence[Ticket], appetite: Appetite, using: str) -> None:
    waits = any(isinstance(ticket.outcome, Waiting) for ticket in tickets)
    now, on_hold = begin_turn(using) if waits else (begin(using), set())
    now += appetite.ahead
    left, threads = appetite.slots, appetite.threads
    if tickets:
        # Not while others wait: what is born would always be served before them.
        cradle = None if appetite.targets else Cradle(appetite.worker, left, threads, appetite.serves, on_hold)
        turn.settled = settle(tickets, using=using, now=now, on_hold=on_hold, cradle=cradle)
        turn.claims += turn.settled.claims
        if cradle is not None:
            left, threads = cradle.slots, cradle.threads
    targets = _with_new_work(appetite, turn.settled)
    for number, (pipeline, priority) in enumerate(targets):
        if left <= 0 or turn.suspect_waits:
            break
        share = -(-left // (len(targets) - number))
        if pipeline.threaded:
            share = min(share, threads)
        if not share:
            continue
        got = claim(
            pipeline, using, priority=priority, limit=share, now=now, worker=appetite.worker,
            alone=appetite.alone and not turn.claims, kept=appetite.kept,
        )  # fmt: skip
        turn.claims += got.claims
        turn.suspect_waits = got.suspect_first
        left -= len(got.claims)
        threads -= len(got.claims) if pipeline.threaded else 0
        if got.emptied:
            turn.emptied.add((pipeline.id, priority))
        if any(entry.crashes for entry in got.claims):
            break  # it runs alone
    for entry in turn.claims:
        entry.ahead = appetite.ahead


def _with_new_work(appetite: Appetite, settled: Settled) -> list[Target]:
    from_settling = {(id, priority) for id, priority in settled.ready if id in appetite.serves}
    known = {(pipeline.id, priority) for pipeline, priority in appetite.targets}
    return [*appetite.targets, *((registry.find(id), priority) for id, priority in sorted(from_settling - known))]


def _one_by_one(tickets: Sequence[Ticket], error: Exception, using: str, commit: Strategy) -> Turn:
    """Find the culprit of a value that cannot be written: everyone else settles, it parks with the error's words."""
    if len(tickets) == 1:
        (ticket,) = tickets
        if isinstance(ticket.outcome, Parked):
            raise error
        parked = replace(ticket, outcome=Parked(Failure.of(error)))
        return take_turn([parked], Appetite(""), using=using, commit=commit)
    together = Turn()
    for ticket in tickets:
        _merge(together.settled, take_turn([ticket], Appetite(""), using=using, commit=commit).settled)
    return together


def _merge(into: Settled, more: Settled) -> None:
    into.done += more.done
    into.lost += more.lost
    into.later += more.later
    into.cold += more.cold
    into.born |= more.born
    into.epochs |= more.epochs
    into.outputs |= more.outputs
    into.ready |= more.ready
    into.soonest = min(into.soonest, more.soonest)
    into.dropped += more.dropped
    into.proved &= more.proved


# A COMMIT whose reply was lost


def resolve(
    settled: Settled, claims: Sequence[Claim], using: str, worker: str, commit: Strategy = durable
) -> list[Claim] | None:
    """The claims that stand if a transaction whose COMMIT raised did commit; None if it did not.

    A locking read on a fresh connection tells. A row that still has the epoch its ticket held was not settled.
    Anything else was, by that transaction or by somebody who has it now; either way it is no longer ours to settle. It
    must lock: the server may still be at it.
    """
    if connections[using].in_atomic_block:
        return None  # a test's own transaction: nothing was committed
    connections[using].close()
    wanted: dict[str, set[int]] = defaultdict(set)
    moved: list[Ticket | Claim] = [*settled.done, *claims]
    for entry in moved:
        wanted[entry.pipeline.id].add(entry.id)
    locked = None
    try:
        with commit(using):
            begin(using)
            locked = lock(using, wanted, wait=True)
    except (DatabaseError, InterfaceError):
        if locked is None:
            raise
        # This transaction only read. What it read under its locks is so, whatever became of its own COMMIT.
    rows = {(id, row.id): row for id, by_id in locked.items() for row in by_id.values()}
    if any(
        (row := rows.get((t.pipeline.id, t.id))) and row.epoch == t.epoch for t in settled.done if not t.advanced_by
    ):
        return None  # (an advanced run's row may stay as it is; its children tell)
    standing = [c for c in claims if (row := rows.get((c.pipeline.id, c.id))) and row.held_by(worker, c.epoch)]
    return standing if standing or settled.done else None
