"""How fast the queues of one database move, from the newest end of what they left: a few statements for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connections

from pipeteer_django.queues.database import aware, literal
from pipeteer_django.queues.figures import Pipelines, fetch_all, table_of

LATEST = 5_000
"""So many of the newest results, and of the newest calls of a workflow, are looked at."""


@dataclass(slots=True)
class Pace:
    """What was finished since `start`; if that is later than what was asked for, there was too much to look at."""

    start: datetime
    finished: list[tuple[datetime, timedelta]] = field(default_factory=list)
    """Of each: when, and how long after it was enqueued."""


def paces(using: str, pipelines: Pipelines, callers: Pipelines, since: datetime) -> dict[str, Pace]:
    """The pace of each pipeline by its id: its results, and its answers to `callers` (workflows), which leave none.

    Both tables are walked from their newest end, because ids are given in the order of time.
    """
    found = {pipeline.id: Pace(since) for pipeline in pipelines}
    tables = [(p.id, p.Output, "finished_at") for p in pipelines]
    tables += [("", p.models["Step"], "created_at") for p in callers]
    looks = [_newest(using, n, id, model, since) for n, (id, model, _) in enumerate(tables)]
    edges = [_edge(using, n, model, column) for n, (_, model, column) in enumerate(tables)]
    cut = {n: aware(moment) for n, moment in fetch_all(using, edges)}
    for number, id, created, finished in fetch_all(using, looks):
        begun, ended, edge = aware(created), aware(finished), cut.get(number)
        if id in found and begun is not None and ended is not None:
            pace = found[id]
            pace.start = max(pace.start, edge or since)
            pace.finished.append((ended, ended - begun))
    for pace in found.values():
        pace.finished = sorted(row for row in pace.finished if row[0] >= pace.start)
    return found


def _newest(using: str, number: int, id: str, model: Any, since: datetime) -> str:
    """Of the newest results, or (no `id`) of a workflow's newest calls, those that were finished since then."""
    newest, moment = f"ORDER BY id DESC LIMIT {LATEST}) AS newest{number}", literal(connections[using], since)
    if id:
        columns = "created_at, finished_at"
        rows = f"(SELECT {columns} FROM {table_of(using, model)} {newest}"
        return f"SELECT {number}, '{id}', {columns} FROM {rows} WHERE finished_at >= {moment}"
    rows = f"(SELECT pipeline, created_at, done_at, error FROM {table_of(using, model)} {newest}"
    answered = f"done_at >= {moment} AND error IS NULL"
    return f"SELECT {number}, pipeline, created_at, done_at FROM {rows} WHERE {answered}"


def _edge(using: str, number: int, model: Any, column: str) -> str:
    """The newest row that is not looked at any more."""
    return (
        f"SELECT * FROM (SELECT {number} AS n, {column} FROM {table_of(using, model)} "
        f"ORDER BY id DESC LIMIT 1 OFFSET {LATEST}) AS edge{number}"
    )
