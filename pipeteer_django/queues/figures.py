"""How the queues of one database stand, in numbers: a few statements for all of them together.

However long a queue is, no more than `CAP` entries of a kind are looked at: a count that got so far says that there are
more. What is counted is a range of the claim index, per priority, because that is the index's first column.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connections
from django.db.models import BigIntegerField, Value
from django.db.models.functions import Right

from pipeteer_django.models import Queue, Worker
from pipeteer_django.pipelines.outcome import LOST_WORKER
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import lease, plain
from pipeteer_django.queues.database import ago, aware, fetch
from pipeteer_django.queues.statements import quoted

CAP = 10_000
WORKERS = 100
"""So many workers are read, those that were heard of last."""
_TOGETHER = 150
"""Looks in one statement; SQLite takes up to 500."""
_BEAT = timedelta(seconds=30)
"""A worker that was silent for less than this is alive, however short its leases."""

Pipelines = Sequence[Pipeline[Any, Any]]


@dataclass(frozen=True, slots=True)
class Count:
    """A number of entries; `more` if there are more, which nobody counted."""

    number: int = 0
    more: bool = False

    def __add__(self, other: Count) -> Count:
        return Count(self.number + other.number, self.more or other.more)

    def __bool__(self) -> bool:
        return self.number > 0


@dataclass(frozen=True, slots=True)
class Oldest:
    """The entry that could have been claimed for the longest time."""

    id: int
    key: str
    since: datetime


@dataclass(slots=True)
class Depth:
    """What is in one queue, by state, as the QuerySet's predicates have it."""

    ready: Count = Count()
    running: Count = Count()
    waiting: Count = Count()
    scheduled: Count = Count()
    failed: Count = Count()
    crashed: Count = Count()
    """Those of the failed that were parked because their workers died."""
    by_worker: dict[str, int] = field(default_factory=dict)
    """Running entries by the worker that has them."""
    oldest: Oldest | None = None
    last_failed: int = 0
    """The id of the newest failed entry."""
    last_finished: datetime | None = None
    """When the newest result was written."""

    @property
    def total(self) -> Count:
        """All of it."""
        return self.ready + self.running + self.waiting + self.scheduled + self.failed


# Looking


def without_tables(using: str, pipelines: Pipelines) -> list[Pipeline[Any, Any]]:
    """Those whose tables are not all there: their migrations have not run."""
    there = set(connections[using].introspection.table_names())
    return [p for p in pipelines if any(model._meta.db_table not in there for model in p.models.values())]


def held(using: str) -> set[str]:
    """The ids of the queues on hold."""
    return set(plain(Queue, using).filter(held=True).values_list("pipeline", flat=True))


def workers(using: str) -> list[Worker]:
    """Worker processes, those heard of last first."""
    return list(plain(Worker, using).order_by("-heartbeat_at", "label")[:WORKERS])


def serves(worker: Worker) -> set[str]:
    """The ids of the pipelines that it runs."""
    return set(filter(None, worker.pipelines.split(", ")))


def is_alive(worker: Worker, now: datetime) -> bool:
    """Whether it was heard of lately. It says so three times in its shortest lease."""
    known = [pipeline for id in serves(worker) if (pipeline := registry.get(id))]
    patience = max([_BEAT, *([min(map(lease, known))] if known else [])])
    return now - worker.heartbeat_at <= patience


def depths(using: str, pipelines: Pipelines) -> dict[str, Depth]:
    """The depth of each queue by the pipeline's id."""
    found = {pipeline.id: Depth() for pipeline in pipelines}
    places = list(_priorities(using, pipelines))
    _count(using, places, found)
    _find_oldest(using, places, found)
    _find_last_finished(using, pipelines, found)
    return found


def last_errors(using: str, of: Mapping[str, Depth], length: int = 500) -> dict[str, str]:
    """How the error of each queue's newest failed entry ends: one statement."""
    looks = [
        plain(registry.find(id).Input, using)
        .filter(pk=depth.last_failed)
        .values_list(Value(number, BigIntegerField()), Right("error", length))
        for number, (id, depth) in enumerate(of.items())
        if depth.last_failed
    ]
    ids = list(of)
    return {ids[n]: error for part in _together(looks) for n, error in part[0].union(*part[1:], all=True)}


Place = tuple[Pipeline[Any, Any], int]
"""A queue and a priority that some of its entries have."""


def _priorities(using: str, pipelines: Pipelines) -> Iterator[Place]:
    """All that are in use, the highest first: a constant max() is one index lookup, and a round asks all queues."""
    below: dict[int, int] = dict.fromkeys(range(len(pipelines)), 32_768)
    while below:
        looks = [
            f"SELECT {n}, MAX(priority) FROM {table_of(using, pipelines[n].Input)} WHERE priority < {p}"
            for n, p in below.items()
        ]
        below = {n: priority for n, priority in fetch_all(using, looks) if priority is not None}
        yield from ((pipelines[n], priority) for n, priority in below.items())


def _count(using: str, places: Sequence[Place], found: dict[str, Depth]) -> None:
    looks = [look for n, (pipeline, p) in enumerate(places) for look in _counts(using, n, pipeline, p)]
    seen: dict[tuple[int, str], int] = defaultdict(int)
    for number, span, reserved_by, suspended, given_up, crashed, count, last in fetch_all(using, looks):
        depth = found[places[number][0].id]
        seen[number, span] += count
        for state in _states(span, reserved_by, suspended, given_up, crashed):
            setattr(depth, state, getattr(depth, state) + Count(min(count, CAP)))
        if reserved_by and span != "due":
            depth.by_worker[reserved_by] = depth.by_worker.get(reserved_by, 0) + count
        if given_up:
            depth.last_failed = max(depth.last_failed, last)
    for (number, span), count in seen.items():
        if count > CAP:
            _say_more(found[places[number][0].id], span, places[number][0].kind == "workflow")


def _states(span: str, reserved_by: str, suspended: bool, given_up: bool, crashed: bool) -> list[str]:
    if span == "due":
        return ["ready"]
    if given_up:
        return ["failed", "crashed"] if crashed else ["failed"]
    if reserved_by:
        return ["running"]
    return ["waiting"] if suspended else ["scheduled"]


_MAY_BE = {
    "due": ("ready",),
    "lease": ("running", "waiting", "scheduled"),
    "later": ("waiting", "scheduled"),
    "never": ("waiting", "failed", "crashed"),
}
"""The states of the entries in each range."""


def _say_more(depth: Depth, span: str, may_wait: bool) -> None:
    """Entries were left out that could be in any of the range's states."""
    for state in _MAY_BE[span]:
        if state != "waiting" or may_wait:
            setattr(depth, state, getattr(depth, state) + Count(0, more=True))


def _counts(using: str, number: int, pipeline: Pipeline[Any, Any], priority: int) -> list[str]:
    """The ranges of the claim index: due (the index alone tells), due within a lease, later, and asleep or failed."""
    connection = connections[using]
    now, soon = ago(connection, 0), ago(connection, -lease(pipeline).total_seconds())
    walk = f"FROM {table_of(using, pipeline.Input)} WHERE priority = {priority} AND available_at"
    limit = f"LIMIT {CAP + 1}"
    lost = f"SUBSTR(error, 1, {len(LOST_WORKER)}) = '{LOST_WORKER}'"
    crashed = f"CASE WHEN failed_at IS NULL THEN FALSE ELSE {lost} END"
    awake = [
        f"SELECT {number}, '{span}', reserved_by, suspended, FALSE, FALSE, COUNT(*), 0 FROM (SELECT reserved_by, "
        f"suspended {walk} {range} ORDER BY available_at, id {limit}) AS {span}{number} GROUP BY reserved_by, suspended"
        for span, range in {"lease": f"> {now} AND available_at <= {soon}", "later": f"> {soon}"}.items()
    ]
    return [
        f"SELECT {number}, 'due', '', FALSE, FALSE, FALSE, COUNT(*), 0 FROM (SELECT available_at {walk} <= {now} "
        f"ORDER BY available_at, id {limit}) AS due{number}",
        *awake,
        f"SELECT {number}, 'never', '', suspended, given_up, crashed, COUNT(*), MAX(id) FROM (SELECT id, suspended, "
        f"failed_at IS NOT NULL AS given_up, {crashed} AS crashed {walk} IS NULL "
        f"ORDER BY available_at DESC, id DESC {limit}) AS never{number} GROUP BY suspended, given_up, crashed",
    ]


def _find_oldest(using: str, places: Sequence[Place], found: dict[str, Depth]) -> None:
    now = ago(connections[using], 0)
    looks = [
        f"SELECT * FROM (SELECT {n} AS n, id, {quoted(using, 'key')}, available_at FROM "
        f"{table_of(using, pipeline.Input)} WHERE priority = {priority} AND available_at <= {now} "
        f"ORDER BY available_at, id LIMIT 1) AS oldest{n}"
        for n, (pipeline, priority) in enumerate(places)
        if found[pipeline.id].ready
    ]
    for number, id, key, since in fetch_all(using, looks):
        depth, moment = found[places[number][0].id], aware(since)
        if moment is not None and (depth.oldest is None or moment < depth.oldest.since):
            depth.oldest = Oldest(id, key, moment)


def _find_last_finished(using: str, pipelines: Pipelines, found: dict[str, Depth]) -> None:
    looks = [
        f"SELECT * FROM (SELECT {n} AS n, finished_at FROM {table_of(using, pipeline.Output)} "
        f"ORDER BY id DESC LIMIT 1) AS last{n}"
        for n, pipeline in enumerate(pipelines)
    ]
    for number, moment in fetch_all(using, looks):
        found[pipelines[number].id].last_finished = aware(moment)


# Statements


def fetch_all(using: str, looks: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of many SELECTs without parameters, in a few statements."""
    for part in _together(looks):
        yield from fetch(using, " UNION ALL ".join(part))


def table_of(using: str, model: Any) -> str:
    """A table's name as it stands in a statement."""
    return quoted(using, model._meta.db_table)


def _together(looks: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (looks[start : start + _TOGETHER] for start in range(0, len(looks), _TOGETHER))
