"""Looking at queues without touching them: one statement for all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connections, models
from django.utils import timezone

from pipeteer_django.models import Queue
from pipeteer_django.queues.database import aware, clock, fetch, no_table


@dataclass(slots=True)
class Peeked:
    """What one look at many queues saw: `due` by (pipeline id, priority), and priorities not asked about."""

    now: datetime
    due: dict[tuple[str, int], datetime] = field(default_factory=dict)
    unknown: set[tuple[str, int]] = field(default_factory=set)


def not_held(id: str) -> str:
    """The condition under which a queue may be claimed from: looked at by peek and claim alike."""
    # Ids are checked by the registry (letters, digits, underscores), so they may stand in the text.
    return f"NOT EXISTS (SELECT 1 FROM {Queue._meta.db_table} WHERE pipeline = '{id}' AND held)"


def peek(using: str, queues: Mapping[str, tuple[type[models.Model], Sequence[int]]]) -> Peeked:
    """One statement for all queues: per priority the earliest `available_at`, walking the claim index.

    `queues` maps a pipeline's id to its Input and the priorities known to be in use. The gaps between these are
    probed too (a constant max() is one index lookup, a DISTINCT is not), so that a new priority is found.
    """
    connection = connections[using]
    numbers = dict(enumerate(queues))
    branches = [branch for n, id in numbers.items() for branch in _peek_branches(connection, n, id, *queues[id])]
    sql = " UNION ALL ".join([f"SELECT -1, 0, {clock(connection)}", *branches])
    (_, _, now), *rows = sorted(fetch(using, sql), key=lambda row: row[0])
    peeked = Peeked(aware(now) or timezone.now())
    for number, priority, due in rows:
        if due is not None:
            peeked.due[numbers[number], priority] = aware(due)  # type: ignore[assignment]
        elif priority is not None and priority not in queues[numbers[number]][1]:
            peeked.unknown.add((numbers[number], priority))
    return peeked


def _peek_branches(
    connection: Any, number: int, id: str, model: type[models.Model], priorities: Sequence[int]
) -> list[str]:
    table = connection.ops.quote_name(model._meta.db_table)
    free = f"{no_table(connection)} WHERE {not_held(id)}"
    known = sorted(priorities, reverse=True)
    looks = [
        f"SELECT {number}, {p}, (SELECT available_at FROM {table} WHERE priority = {p} AND available_at IS NOT NULL "
        f"ORDER BY available_at LIMIT 1){free}"
        for p in known
    ]
    gaps = [f"SELECT {number}, (SELECT MAX(priority) FROM {table} WHERE {gap}), NULL{free}" for gap in _gaps(known)]
    return looks + gaps


def _gaps(known: Sequence[int]) -> list[str]:
    """Conditions that together hold for every priority but the known ones (given highest first)."""
    if not known:
        return ["TRUE"]
    between = [f"priority < {high} AND priority > {low}" for high, low in itertools.pairwise(known) if high - low > 1]
    return [f"priority > {known[0]}", *between, f"priority < {known[-1]}"]
