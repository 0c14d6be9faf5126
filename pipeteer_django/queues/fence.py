"""Whose rows a turn touches, and which of its tickets still hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pipeteer_django.pipelines.outcome import Cancelled, Done, Failed, Waiting
from pipeteer_django.pipelines.record import SEND
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.births import Place
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.deliver import runs_of
from pipeteer_django.queues.rows import Locked, Row, epochs
from pipeteer_django.queues.tickets import Removed, Settled, Ticket

NOWHERE: Place = ("", 0)
"""The place of no row."""


def callers_of(tickets: Iterable[Ticket], using: str) -> dict[tuple[str, int], Place]:
    """The calling run by (caller, step id), for the tickets that have something to deliver."""
    steps: dict[str, set[int]] = defaultdict(set)
    known: dict[tuple[str, int], Place] = {}
    for ticket in tickets:
        if ticket.step_id is not None and isinstance(ticket.outcome, _DELIVERED) and registry.get(ticket.caller):
            if ticket.parent is None:
                steps[ticket.caller].add(ticket.step_id)
            else:
                known[ticket.caller, ticket.step_id] = (ticket.caller, ticket.parent)
    for caller, ids in steps.items():
        known |= {(caller, step): (caller, run) for step, run in runs_of(using, caller, ids).items()}
    return known


_DELIVERED = (Done, Failed, Cancelled, Removed)


def targets_of(tickets: Iterable[Ticket], using: str) -> dict[tuple[str, str], Place]:
    """The runs that messages are for, by (workflow, key)."""
    keys: dict[str, set[str]] = defaultdict(set)
    for ticket in tickets:
        for param in sends_of(ticket):
            if registry.get(param["workflow"]):
                keys[param["workflow"]].add(param["key"])
    return {
        (id, key): (id, run_id)
        for id, wanted in keys.items()
        for run_id, key in plain(registry.find(id).Input, using).filter(key__in=wanted).values_list("id", "key")
    }


def sends_of(ticket: Ticket) -> list[dict[str, Any]]:
    """What a ticket's run sends: workflow, key, name, value."""
    steps = ticket.outcome.steps if isinstance(ticket.outcome, Waiting) else ()
    return [step.param for step in steps if step.pipeline == SEND and not step.cancelled]


def others_of(ticket: Ticket, callers: Mapping[Any, Place], targets: Mapping[Any, Place]) -> set[Place]:
    """The rows besides its own that settling a ticket touches."""
    found = {targets.get((param["workflow"], param["key"])) for param in sends_of(ticket)}
    found.add(callers.get((ticket.caller, ticket.step_id)))
    return {place for place in found if place is not None}


def by_pipeline(others: Mapping[Place, Iterable[Place]]) -> dict[str, set[int]]:
    """All these rows, as `rows.lock` wants them."""
    wanted: dict[str, set[int]] = defaultdict(set)
    for place, more in others.items():
        for id, row_id in (place, *more):
            wanted[id].add(row_id)
    return wanted


def row_at(locked: Locked, place: Place) -> Row:
    """A locked row."""
    return locked[place[0]][place[1]]


def hold_against(
    tickets: Sequence[Ticket], others: Mapping[Place, set[Place]], locked: Locked, using: str, on_hold: Collection[str]
) -> Settled:
    """Which tickets still hold: done (to be), lost, for later, cold."""
    settled = Settled()
    missing = missing_rows(by_pipeline(others), locked, using)
    for ticket in tickets:
        if not ticket.advanced_by:
            row = locked[ticket.pipeline.id].get(ticket.id)
            epoch = row.epoch if row else missing.get(ticket.place)
            if epoch is None or ticket.epoch not in (epoch, None):
                settled.lost.append(ticket)
            elif row is None or not others[ticket.place].isdisjoint(missing):
                settled.later.append(ticket)
            else:
                settled.done.append(ticket)
    _fence_advanced([ticket for ticket in tickets if ticket.advanced_by], others, missing, locked, settled, on_hold)
    return settled


def _fence_advanced(
    tickets: Sequence[Ticket],
    others: Mapping[Place, set[Place]],
    missing: Mapping[Place, int],
    locked: Locked,
    settled: Settled,
    on_hold: Collection[str],
) -> None:
    settling, waiting = {ticket.place for ticket in settled.done}, {ticket.place for ticket in settled.later}
    for ticket in tickets:
        if waiting.issuperset(ticket.advanced_by):
            settled.later.append(ticket)
            continue
        row = locked[ticket.pipeline.id].get(ticket.id)
        stands = (
            row is not None
            and (row.epoch, row.suspended, row.reserved_by) == (ticket.epoch, True, "")
            and ticket.pipeline.id not in on_hold
            and settling.issuperset(ticket.advanced_by)
            and others[ticket.place].isdisjoint(missing)
        )
        (settled.done if stands else settled.cold).append(ticket)


def missing_rows(wanted: Mapping[str, set[int]], locked: Locked, using: str) -> dict[Place, int]:
    """Epochs of the rows that exist but could not be locked."""
    missing: dict[Place, int] = {}
    for id, ids in wanted.items():
        absent = ids - locked[id].keys()
        if absent:
            missing.update({(id, row): epoch for row, epoch in epochs(using, registry.find(id), absent).items()})
    return missing
