"""The one door through which work ends or is suspended: a worker's turn, an atomic activity, a person, a delete.

Every outcome is first held against the row's epoch under a lock on the row. A claim whose epoch has moved on changes
nothing. What is left is planned in memory and written with a number of statements that does not depend on how many
entries there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeteer_django.exceptions import InvalidValue
from pipeteer_django.pipelines.outcome import (
    Cancelled,
    Consumed,
    Continued,
    Done,
    Failed,
    Failure,
    Parked,
    Released,
    Retry,
    Waiting,
)
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import SEND
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.births import Birth, Born, Cradle, Place, insert_steps, without_duplicates
from pipeteer_django.queues.cancel import cancel_open, cancel_steps
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import from_now
from pipeteer_django.queues.deliver import Result, insert_messages, record_consumed, record_results, record_taken
from pipeteer_django.queues.fence import (
    NOWHERE,
    by_pipeline,
    callers_of,
    hold_against,
    missing_rows,
    others_of,
    row_at,
    targets_of,
)
from pipeteer_django.queues.rows import Locked, Row, all_written, lock, write
from pipeteer_django.queues.statements import id_list, insert_rows, select_rows
from pipeteer_django.queues.tickets import Removed, Settled, Ticket

_OUTPUT = ("key", "value", "output", "run_id", "attempt", "created_at", "finished_at")
_HISTORY = ("branch", "param", "started_at")


@dataclass(slots=True)
class _Plan:
    outputs: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: defaultdict(list))
    results: dict[str, dict[int, Result]] = field(default_factory=lambda: defaultdict(dict))
    births: list[Birth] = field(default_factory=list)
    messages: dict[str, list[tuple[int, str, Any, datetime]]] = field(default_factory=lambda: defaultdict(list))
    unread: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    consumed: dict[str, list[tuple[Consumed, int]]] = field(default_factory=lambda: defaultdict(list))
    ended: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Runs whose open steps are cancelled, their children softly."""
    removed: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Runs whose open steps and all below are deleted."""
    cancelled: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Steps that runs cancelled."""

    def consume(self, ticket: Ticket, row: Row) -> None:
        """Note the events that the ticket's run took for the first time."""
        if isinstance(ticket.outcome, (Done, Waiting, Continued)) and ticket.outcome.consumed:
            self.consumed[ticket.pipeline.id] += [(event, row.branch) for event in ticket.outcome.consumed]


def settle(
    tickets: Sequence[Ticket],
    *,
    using: str,
    now: datetime,
    wait: bool = False,
    parents: bool = True,
    on_hold: Collection[str] = (),
    cradle: Cradle | None = None,
) -> Settled:
    """Settle all tickets inside the caller's transaction.

    `wait`: wait for locked rows (a person's request) instead of leaving them for later (a worker's turn).
    `parents=False` records results without touching the callers' rows (an atomic activity's own transaction must
    not hold them); `wake_callers` then does the rest. `on_hold`: ids of queues in which no run is advanced.
    `cradle` claims new entries at once.
    """
    callers = callers_of(tickets, using) if parents else {}
    targets = targets_of(tickets, using)
    others = {ticket.place: others_of(ticket, callers, targets) for ticket in tickets}
    locked = lock(using, by_pipeline(others), wait=wait)
    settled = hold_against(tickets, others, locked, using, on_hold)
    plan = _Plan()
    for ticket in settled.done:
        _end(plan, ticket, row_at(locked, ticket.place), now)
    _deliver(plan, callers, locked, settled)
    for ticket in settled.done:
        _send(plan, ticket, targets, locked, settled, now)
    for ticket in settled.done:
        # After the deliveries: going to sleep looks at what has arrived, this turn's results included.
        _move(plan, ticket, row_at(locked, ticket.place), now)
    _write(plan, locked, settled, using, now, cradle)
    return settled


# What follows from each outcome


def _end(plan: _Plan, ticket: Ticket, row: Row, now: datetime) -> None:
    """The outcomes that take an entry out of its queue."""
    outcome, pipeline, at = ticket.outcome, ticket.pipeline, ticket.at or now
    if isinstance(outcome, Done):
        plan.consume(ticket, row)
        if row.caller:
            _result(plan, row, Result(pipeline.output.to_json(outcome.value), None, at, row.id))
        else:
            value = pipeline.output.to_stored(outcome.value)
            plan.outputs[pipeline.id].append(
                (row.key, value, row.output, row.id, max(1, row.attempt), row.created_at, now)
            )
    elif isinstance(outcome, (Removed, Cancelled)) or (isinstance(outcome, Failed) and row.caller):
        if row.caller:
            _result(plan, row, Result(None, outcome.failure.as_json(), at, row.id))
    else:
        return
    row.gone = True
    if pipeline.kind == "workflow" and not (isinstance(outcome, Done) and not outcome.leaves_open):
        (plan.removed if isinstance(outcome, Removed) else plan.ended)[pipeline.id].append(row.id)


def _result(plan: _Plan, row: Row, result: Result) -> None:
    if registry.get(row.caller) and row.step_id is not None:
        plan.results[row.caller][row.step_id] = result


def _deliver(plan: _Plan, callers: Mapping[Any, Place], locked: Locked, settled: Settled) -> None:
    advanced = {ticket.place for ticket in settled.done if ticket.advanced_by}
    for caller, results in plan.results.items():
        for step_id, result in results.items():
            place = callers.get((caller, step_id))
            parent = locked.get(caller, {}).get(place[1]) if place else None
            if parent is not None and not parent.gone and place not in advanced:
                parent.deliver(result.at)
                settled.ready.add((caller, parent.priority))


def _send(
    plan: _Plan, ticket: Ticket, targets: Mapping[Any, Place], locked: Locked, settled: Settled, now: datetime
) -> None:
    """Put messages into inboxes, and make the steps that sent them come to their ends."""
    outcome = ticket.outcome
    if not isinstance(outcome, Waiting):
        return
    sender = row_at(locked, ticket.place)
    for step in outcome.steps:
        error = None
        ended = step.pipeline == SEND and not step.cancelled
        if ended:
            place = targets.get((step.param["workflow"], step.param["key"]))
            target = locked[place[0]].get(place[1]) if place else None
            if place is None or target is None or target.gone:
                error = Failure("RunGone", "no run in the queue has this key", "").as_json()
            else:
                plan.messages[place[0]].append((target.id, step.param["name"], step.param["value"], ticket.at or now))
                target.deliver(now)
                settled.ready.add((place[0], target.priority))
            sender.deliver(now)
        plan.births.append(Birth(ticket.pipeline.id, sender.id, sender.branch, step, error, ended))


def _move(plan: _Plan, ticket: Ticket, row: Row, now: datetime) -> None:
    """The outcomes after which an entry stays in its queue."""
    outcome = ticket.outcome
    if isinstance(outcome, Waiting):
        # A run advanced in memory mostly sleeps on as it did: then its row need not be written at all.
        if not (ticket.advanced_by and row.sleeps(outcome.due, ticket.deliveries, ticket.holder)):
            row.sleep(outcome.due, now, ticket.deliveries, ticket.holder)
        row.progress = outcome.progress
        plan.consume(ticket, row)
        if outcome.cancelled:
            plan.cancelled[ticket.pipeline.id] += outcome.cancelled
    elif isinstance(outcome, Continued):
        plan.consume(ticket, row)
        plan.unread[ticket.pipeline.id] += outcome.unread
        plan.ended[ticket.pipeline.id].append(row.id)
        row.begin_again(ticket.pipeline.input.to_stored(outcome.value), now)
    elif isinstance(outcome, Retry):
        row.wait_until(from_now(now, outcome.delay), outcome.failure.traceback)
    elif isinstance(outcome, Released):
        row.release(from_now(now, outcome.delay))
    elif isinstance(outcome, Parked) or (isinstance(outcome, Failed) and not row.gone):
        row.park(outcome.failure.traceback, now)


def _write(plan: _Plan, locked: Locked, settled: Settled, using: str, now: datetime, cradle: Cradle | None) -> None:
    for id, outputs in plan.outputs.items():
        _insert_outputs(registry.find(id), using, outputs)
        settled.outputs |= {row[2] for row in outputs}
    for caller, results in plan.results.items():
        taken = record_taken(using, caller, results, plan.consumed[caller])
        others = {id: result for id, result in results.items() if id not in taken}
        settled.dropped += len(others) - record_results(using, caller, others)
        plan.consumed[caller] = [
            (event, branch) for event, branch in plan.consumed[caller] if event.message or event.id not in taken
        ]
    for id, consumed in plan.consumed.items():
        record_consumed(using, id, consumed)
    for id, messages in plan.messages.items():
        insert_messages(using, id, messages)
    for id, unread in plan.unread.items():
        mine = plain(registry.find(id).models["Message"], using).filter(id__in=unread)
        all_written(id, unread, mine.update(order=None, branch=None))
    write(using, locked)
    for id, steps in plan.cancelled.items():
        # Before the births: a key whose entry was done or is cancelled in this turn is free again.
        settled.ready |= cancel_steps(using, id, steps, now)
    births = without_duplicates(using, plan.births)
    _wake_refused(births, using, now, settled)
    born = insert_steps(using, births, now, cradle)
    _note_born(born, settled)
    _cancel_ended(plan, using, now, settled)
    _note_awake(locked, settled, now)
    waiting = (ticket.place for ticket in settled.done if isinstance(ticket.outcome, Waiting))
    settled.epochs = {place: row_at(locked, place).epoch for place in waiting}


def _insert_outputs(pipeline: Pipeline[Any, Any], using: str, outputs: Sequence[tuple[Any, ...]]) -> None:
    if pipeline.kind != "workflow":
        insert_rows(using, pipeline.Output, _OUTPUT, outputs)
        return
    ids = [row[3] for row in outputs]
    entries = select_rows(
        using, pipeline.Input, ("id", "branch", "value", "started_at"), f"id IN ({id_list(ids)})", order="id"
    )
    history = {id: (branch, _as_json(pipeline, value), started_at) for id, branch, value, started_at in entries}
    insert_rows(using, pipeline.Output, _OUTPUT + _HISTORY, [(*row, *history[row[3]]) for row in outputs])


def _as_json(pipeline: Pipeline[Any, Any], stored: Any) -> Any:
    try:
        return pipeline.input.to_json(pipeline.input.from_stored(stored))
    except InvalidValue:
        return None  # the code has changed since it was enqueued; it cannot be run again anyway


def _note_born(born: Born, settled: Settled) -> None:
    settled.born |= born.ids
    settled.claims += born.claims
    settled.ready |= born.ready
    settled.soonest = min(settled.soonest, born.soonest)


def _wake_refused(births: Sequence[Birth], using: str, now: datetime, settled: Settled) -> None:
    """Runs whose call came to its end at once, because its key was taken, have an event to take."""
    refused: dict[str, list[int]] = defaultdict(list)
    for birth in births:
        if birth.ended and birth.step.call:
            refused[birth.workflow].append(birth.run_id)
    # Read again: cancelling may have written to them since.
    locked = lock(using, refused, wait=False)
    for id, rows in locked.items():
        for row in rows.values():
            row.deliver(now)
            settled.ready.add((id, row.priority))
    write(using, locked)


def _cancel_ended(plan: _Plan, using: str, now: datetime, settled: Settled) -> None:
    """After the births: what a run of a tree that is deleted has just called goes, too."""
    for id, runs in plan.ended.items():
        settled.ready |= cancel_open(using, id, runs, now, softly=True)
    for id, runs in plan.removed.items():
        cancel_open(using, id, runs, now, softly=False)


def _note_awake(locked: Locked, settled: Settled, now: datetime) -> None:
    for ticket in settled.done:
        row = row_at(locked, ticket.place)
        if row.gone:
            if not row.caller:
                settled.outputs.add(row.output)
        elif row.available_at is None and not row.suspended:
            settled.outputs.add(row.output)  # given up: whoever waits for the result should hear of it
        elif row.available_at is not None and row.available_at <= now:
            settled.ready.add((ticket.pipeline.id, row.priority))
        elif row.available_at is not None:
            settled.soonest = min(settled.soonest, (row.available_at - now).total_seconds())


def wake_callers(tickets: Sequence[Ticket], *, using: str, now: datetime) -> Settled:
    """Tell callers that results were recorded for them: the second half of an atomic activity's settle.

    Tickets whose caller's row is locked come back in `later`.
    """
    settled = Settled()
    callers = callers_of(tickets, using)
    wanted: dict[str, set[int]] = defaultdict(set)
    for caller, run_id in callers.values():
        wanted[caller].add(run_id)
    locked = lock(using, wanted, wait=False)
    for caller, rows in locked.items():
        for row in rows.values():
            row.deliver(now)
            settled.ready.add((caller, row.priority))
    write(using, locked)
    missing = missing_rows(wanted, locked, using)
    settled.later = [t for t in tickets if callers.get((t.caller, t.step_id or 0), NOWHERE) in missing]
    return settled
