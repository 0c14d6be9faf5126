"""Looking at queues without touching them: one statement for all."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connections
from django.utils import timezone

from pipeteer_django.models import Queue
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.database import ago, aware, begin_with, clock, fetch, no_table

HOLDER_GRACE = 0.5
"""Seconds for which a run is left to the worker that keeps it warm."""


@dataclass(slots=True)
class Peeked:
    """What one look at many queues saw: `due` by (pipeline id, priority), and priorities not asked about."""

    now: datetime
    due: dict[tuple[str, int], datetime] = field(default_factory=dict)
    others: bool = False
    """Whether some are awake that are left to other workers for a moment."""
    unknown: set[tuple[str, int]] = field(default_factory=set)


def not_held(id: str) -> str:
    """The condition under which a queue may be claimed from: looked at by peek and claim alike."""
    # Ids are checked by the registry (letters, digits, underscores), so they may stand in the text.
    return f"NOT EXISTS (SELECT 1 FROM {Queue._meta.db_table} WHERE pipeline = '{id}' AND held)"


def begin_turn(using: str) -> tuple[datetime, set[str]]:
    """`begin` a turn that makes new work: the database's time, and the ids of the queues on hold."""
    return begin_with(using, "pipeline", f"{Queue._meta.db_table} WHERE held")


def _for_me(pipeline: Pipeline[Any, Any], using: str, worker: str) -> str:
    """The condition under which an entry is this worker's to take: a warm run is left to its holder for a while."""
    if pipeline.kind != "workflow":
        return "TRUE"
    assert _LABEL.fullmatch(worker), worker
    return f"(holder = '' OR holder = '{worker}' OR available_at <= {ago(connections[using], HOLDER_GRACE)})"


_LABEL = re.compile(r"[A-Za-z0-9._ -]{0,100}")


def claimable(pipeline: Pipeline[Any, Any], using: str, worker: str) -> str:
    """The condition for a claim, besides that the time has come."""
    return f"{not_held(pipeline.id)} AND {_for_me(pipeline, using, worker)}"


def peek(using: str, worker: str, queues: Mapping[str, tuple[Pipeline[Any, Any], Sequence[int]]]) -> Peeked:
    """One statement for all queues: per priority the earliest `available_at`, walking the claim index.

    `queues` maps a pipeline's id to it and to the priorities known to be in use. The gaps between these are
    probed too (a constant max() is one index lookup, a DISTINCT is not), so that a new priority is found.
    """
    connection = connections[using]
    numbers = dict(enumerate(queues))
    branches = [branch for n, id in numbers.items() for branch in _branches(using, worker, n, *queues[id])]
    sql = " UNION ALL ".join([f"SELECT -1, 0, {clock(connection)}, 0", *branches])
    (_, _, now, _), *rows = sorted(fetch(using, sql), key=lambda row: row[0])
    peeked = Peeked(aware(now) or timezone.now())
    for number, priority, since, others in rows:
        due = aware(since)
        if due is not None:
            target = (numbers[number], priority)
            peeked.others |= bool(others)
            due += timedelta(seconds=HOLDER_GRACE if others else 0)
            peeked.due[target] = min(due, peeked.due.get(target, due))
        elif priority is not None and priority not in queues[numbers[number]][1]:
            peeked.unknown.add((numbers[number], priority))
    return peeked


def _branches(
    using: str, worker: str, number: int, pipeline: Pipeline[Any, Any], priorities: Sequence[int]
) -> list[str]:
    connection = connections[using]
    table = connection.ops.quote_name(pipeline.Input._meta.db_table)
    free = f"{no_table(connection)} WHERE {not_held(pipeline.id)}"
    mine = _for_me(pipeline, using, worker)
    known = sorted(priorities, reverse=True)
    looks = [
        f"SELECT {number}, {p}, (SELECT available_at FROM {table} WHERE priority = {p} AND available_at IS NOT NULL "
        f"AND {mine} ORDER BY available_at LIMIT 1), 0{free}"
        for p in known
    ]
    if pipeline.kind == "workflow":
        # Only what woke up within the grace: few rows, however long the queue.
        lately = f"available_at > {ago(connection, HOLDER_GRACE)} AND available_at <= {ago(connection, 0)}"
        theirs = f"holder <> '' AND holder <> '{worker}'"
        looks += [
            f"SELECT {number}, {p}, (SELECT available_at FROM {table} WHERE priority = {p} AND {lately} AND {theirs} "
            f"ORDER BY available_at LIMIT 1), 1{free}"
            for p in known
        ]
    gaps = [f"SELECT {number}, (SELECT MAX(priority) FROM {table} WHERE {gap}), NULL, 0{free}" for gap in _gaps(known)]
    return looks + gaps


def _gaps(known: Sequence[int]) -> list[str]:
    """Conditions that together hold for every priority but the known ones (given highest first)."""
    if not known:
        return ["TRUE"]
    between = [f"priority < {high} AND priority > {low}" for high, low in itertools.pairwise(known) if high - low > 1]
    return [f"priority > {known[0]}", *between, f"priority < {known[-1]}"]
