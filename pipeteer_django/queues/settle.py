"""The one door through which work ends or is suspended: a worker's turn, an atomic activity, a person, a delete.

Every outcome is first held against the row's epoch under a lock on the row. A claim whose epoch has moved on changes
nothing. What is left is planned in memory and written with a number of statements that does not depend on how many
entries there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeteer_django.pipelines.outcome import (
    Consumed,
    Done,
    Failed,
    Failure,
    Outcome,
    Parked,
    Released,
    Retry,
    Waiting,
)
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.database import from_now
from pipeteer_django.queues.deliver import (
    Birth,
    Result,
    cancel_open,
    insert_calls,
    record_consumed,
    record_results,
    runs_of,
)
from pipeteer_django.queues.rows import Locked, Row, epochs, lock, write
from pipeteer_django.queues.statements import insert_rows

_OUTPUT = ("key", "value", "output", "run_id", "attempt", "created_at", "finished_at")


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


@dataclass(slots=True)
class Settled:
    """What became of the tickets, and what to tell the world once the transaction has committed."""

    done: list[Ticket] = field(default_factory=list)
    lost: list[Ticket] = field(default_factory=list)
    """Their epoch had moved on: somebody else has the entry, or it is gone."""
    later: list[Ticket] = field(default_factory=list)
    """Their row, or their caller's, was locked: try again in a later turn."""
    outputs: set[str] = field(default_factory=set)
    """Names of the outputs that got a result, or whose run was given up."""
    ready: set[tuple[str, int]] = field(default_factory=set)
    """(pipeline id, priority) where entries became claimable."""
    dropped: int = 0
    """Results whose step was cancelled or done."""

    @property
    def topics(self) -> set[str]:
        """The wake-ups to publish."""
        return self.outputs | {id for id, _ in self.ready}


@dataclass(slots=True)
class _Plan:
    outputs: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: defaultdict(list))
    results: dict[str, dict[int, Result]] = field(default_factory=lambda: defaultdict(dict))
    births: list[Birth] = field(default_factory=list)
    consumed: dict[str, list[Consumed]] = field(default_factory=lambda: defaultdict(list))
    ended: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def consume(self, ticket: Ticket) -> None:
        """Note the events that the ticket's run took for the first time."""
        if isinstance(ticket.outcome, (Done, Waiting)) and ticket.outcome.consumed:
            self.consumed[ticket.pipeline.id] += ticket.outcome.consumed


def settle(
    tickets: Sequence[Ticket], *, using: str, now: datetime, wait: bool = False, parents: bool = True
) -> Settled:
    """Settle all tickets inside the caller's transaction.

    `wait`: wait for locked rows (a person's request) instead of leaving them for later (a worker's turn).
    `parents=False` records results without touching the callers' rows (an atomic activity's own transaction must
    not hold them); `wake_callers` then does the rest.
    """
    callers = _callers(tickets, using) if parents else {}
    locked = lock(using, _wanted(tickets, callers), wait=wait)
    settled = _fence(tickets, callers, locked, using)
    plan = _Plan()
    for ticket in settled.done:
        _end(plan, ticket, locked[ticket.pipeline.id][ticket.id], now)
    _deliver(plan, callers, locked, settled, now)
    for ticket in settled.done:
        # After the deliveries: going to sleep looks at what has arrived, this turn's results included.
        _move(plan, ticket, locked[ticket.pipeline.id][ticket.id], now)
    _write(plan, locked, settled, using, now)
    return settled


# Whose rows, and are they still ours?


def _callers(tickets: Iterable[Ticket], using: str) -> dict[tuple[str, int], int]:
    """The calling run's id by (caller, step id), for the tickets that have something to deliver."""
    steps: dict[str, set[int]] = defaultdict(set)
    for ticket in tickets:
        if (
            ticket.step_id is not None
            and isinstance(ticket.outcome, (Done, Failed, Removed))
            and registry.get(ticket.caller)
        ):
            steps[ticket.caller].add(ticket.step_id)
    return {(caller, step): run for caller, ids in steps.items() for step, run in runs_of(using, caller, ids).items()}


def _wanted(tickets: Iterable[Ticket], callers: dict[tuple[str, int], int]) -> dict[str, set[int]]:
    wanted: dict[str, set[int]] = defaultdict(set)
    for ticket in tickets:
        wanted[ticket.pipeline.id].add(ticket.id)
    for (caller, _), run_id in callers.items():
        wanted[caller].add(run_id)
    return wanted


def _fence(tickets: Sequence[Ticket], callers: dict[tuple[str, int], int], locked: Locked, using: str) -> Settled:
    settled = Settled()
    missing = _missing_rows(tickets, callers, locked, using)
    for ticket in tickets:
        row = locked[ticket.pipeline.id].get(ticket.id)
        run = (ticket.caller, callers.get((ticket.caller, ticket.step_id or 0), 0))
        epoch = row.epoch if row else missing.get((ticket.pipeline.id, ticket.id))
        if epoch is None or ticket.epoch not in (epoch, None):
            settled.lost.append(ticket)
        elif row is None or run in missing:
            settled.later.append(ticket)
        else:
            settled.done.append(ticket)
    return settled


def _missing_rows(
    tickets: Sequence[Ticket], callers: dict[tuple[str, int], int], locked: Locked, using: str
) -> dict[tuple[str, int], int]:
    """Epochs of the rows that exist but could not be locked."""
    missing: dict[tuple[str, int], int] = {}
    for id, ids in _wanted(tickets, callers).items():
        absent = ids - locked[id].keys()
        if absent:
            missing.update({(id, row): epoch for row, epoch in epochs(using, registry.find(id), absent).items()})
    return missing


# What follows from each outcome


def _end(plan: _Plan, ticket: Ticket, row: Row, now: datetime) -> None:
    """The outcomes that take an entry out of its queue."""
    outcome, pipeline = ticket.outcome, ticket.pipeline
    if isinstance(outcome, Done):
        plan.consume(ticket)
        if row.caller:
            _result(plan, row, Result(pipeline.output.to_json(outcome.value), None))
        else:
            value = pipeline.output.to_stored(outcome.value)
            plan.outputs[pipeline.id].append(
                (row.key, value, row.output, row.id, max(1, row.attempt), row.created_at, now)
            )
    elif isinstance(outcome, Removed) or (isinstance(outcome, Failed) and row.caller):
        if row.caller:
            _result(plan, row, Result(None, outcome.failure.as_json()))
    else:
        return
    row.gone = True
    if pipeline.kind == "workflow" and (isinstance(outcome, Removed) or outcome.open_steps):
        plan.ended[pipeline.id].append(row.id)


def _result(plan: _Plan, row: Row, result: Result) -> None:
    if registry.get(row.caller) and row.step_id is not None:
        plan.results[row.caller][row.step_id] = result


def _deliver(plan: _Plan, callers: dict[tuple[str, int], int], locked: Locked, settled: Settled, now: datetime) -> None:
    for caller, results in plan.results.items():
        for step_id in results:
            parent = locked.get(caller, {}).get(callers.get((caller, step_id), 0))
            if parent is not None and not parent.gone:
                parent.deliver(now)
                settled.ready.add((caller, parent.priority))


def _move(plan: _Plan, ticket: Ticket, row: Row, now: datetime) -> None:
    """The outcomes after which an entry stays in its queue."""
    outcome = ticket.outcome
    if isinstance(outcome, Waiting):
        row.sleep(outcome.due, now, ticket.deliveries)
        plan.consume(ticket)
        plan.births += [Birth(ticket.pipeline.id, row.id, row.branch, call) for call in outcome.calls]
    elif isinstance(outcome, Retry):
        row.wait_until(from_now(now, outcome.delay), outcome.failure.traceback)
    elif isinstance(outcome, Released):
        row.release(from_now(now, outcome.delay))
    elif isinstance(outcome, Parked) or (isinstance(outcome, Failed) and not row.gone):
        row.park(outcome.failure.traceback, now)


def _write(plan: _Plan, locked: Locked, settled: Settled, using: str, now: datetime) -> None:
    for id, outputs in plan.outputs.items():
        insert_rows(using, registry.find(id).Output, _OUTPUT, outputs)
        settled.outputs |= {row[2] for row in outputs}
    for caller, results in plan.results.items():
        settled.dropped += len(results) - record_results(using, caller, results, now)
    for id, consumed in plan.consumed.items():
        record_consumed(using, id, consumed)
    write(using, locked)
    for id in insert_calls(using, plan.births, now):
        settled.ready.add((id, 0))
    for id, runs in plan.ended.items():
        cancel_open(using, id, runs, now)
    _note_awake(locked, settled, now)


def _note_awake(locked: Locked, settled: Settled, now: datetime) -> None:
    for ticket in settled.done:
        row = locked[ticket.pipeline.id][ticket.id]
        if row.gone:
            continue
        if row.available_at is None:
            settled.outputs.add(row.output)  # given up: whoever waits for the result should hear of it
        elif row.available_at <= now:
            settled.ready.add((ticket.pipeline.id, row.priority))


def wake_callers(tickets: Sequence[Ticket], *, using: str, now: datetime) -> Settled:
    """Tell callers that results were recorded for them: the second half of an atomic activity's settle.

    Tickets whose caller's row is locked come back in `later`.
    """
    settled = Settled()
    callers = _callers(tickets, using)
    locked = lock(using, _wanted((), callers), wait=False)
    for caller, rows in locked.items():
        for row in rows.values():
            row.deliver(now)
            settled.ready.add((caller, row.priority))
    write(using, locked)
    missing = _missing_rows((), callers, locked, using)
    settled.later = [t for t in tickets if (t.caller, callers.get((t.caller, t.step_id or 0), 0)) in missing]
    return settled
