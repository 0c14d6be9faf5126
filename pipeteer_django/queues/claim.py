"""Take entries out of a queue for a while: the oldest claimable ones, each by one worker only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from django.db.models import QuerySet

from pipeteer_django.conf import settings
from pipeteer_django.exceptions import LeaseLost
from pipeteer_django.pipelines.outcome import RecordedStep
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.peek import not_held
from pipeteer_django.queues.statements import id_list, select_rows, update_where

COLUMNS = (
    "id", "key", "value", "output", "priority", "caller", "step_id", "epoch", "attempt", "crashes", "deliveries",
    "branch", "started_at", "created_at", "reserved_by",
)  # fmt: skip
STEP_COLUMNS = (
    "run_id",
    "branch",
    "id",
    "index",
    "pipeline",
    "param",
    "child_id",
    "result",
    "error",
    "done_at",
    "order",
)


# MariaDB assigns from left to right: `crashes` looks at reserved_by and must come before it.
_RESERVE = (
    "crashes = CASE WHEN reserved_by = '' THEN crashes ELSE crashes + 1 END, epoch = epoch + 1, attempt = attempt + 1, "
    "available_at = %s, suspended = FALSE, started_at = COALESCE(started_at, %s), reserved_by = %s"
)


@dataclass(slots=True)
class Claim:
    """An entry that this process holds: the row as it was, `epoch` and `attempt` as the claim wrote them."""

    pipeline: Pipeline[Any, Any]
    id: int
    key: str
    value: Any
    output: str
    priority: int
    caller: str
    step_id: int | None
    epoch: int
    attempt: int
    crashes: int
    deliveries: int
    branch: int
    started_at: datetime
    created_at: datetime
    steps: list[RecordedStep] = field(default_factory=list)


@dataclass(slots=True)
class Claimed:
    """What one claim of one queue gave."""

    claims: list[Claim] = field(default_factory=list)
    emptied: bool = True
    """Fewer were there than asked for."""
    suspect_first: bool = False
    """The oldest entry killed its process last time and must run alone."""


def plain(model: type[Any], using: str) -> QuerySet[Any]:
    """The engine's own view of a table: no guards, no user's manager."""
    return QuerySet(model, using=using)


def lease(pipeline: Pipeline[Any, Any]) -> timedelta:
    """How long a claim of this pipeline lasts unless renewed."""
    return pipeline.reserve or settings().RESERVE


def claim(
    pipeline: Pipeline[Any, Any], using: str, *, priority: int, limit: int, now: datetime, worker: str, alone: bool
) -> Claimed:
    """Claim up to `limit` entries of one priority; call it inside a turn.

    An entry whose last attempt never settled may have killed its process: it is claimed by itself, and only if the
    worker is `alone` (has nothing else at risk).
    """
    rows = _lock_candidates(pipeline, using, priority, limit, now)
    emptied = len(rows) < limit and not any(row["reserved_by"] for row in rows)
    rows, suspect_first = _without_company(rows, alone)
    if not rows:
        return Claimed(emptied=emptied, suspect_first=suspect_first)
    _reserve(pipeline, using, [row["id"] for row in rows], now, worker)
    claims = [_claim(pipeline, row, now) for row in rows]
    load_steps(pipeline, using, claims)
    return Claimed(claims, emptied)


def _lock_candidates(
    pipeline: Pipeline[Any, Any], using: str, priority: int, limit: int, now: datetime
) -> list[dict[str, Any]]:
    """The order is the claim index's own, so nothing sorts and MariaDB locks no more rows than it returns."""
    where = f"priority = {int(priority)} AND available_at <= %s AND {not_held(pipeline.id)}"
    rows = select_rows(using, pipeline.Input, COLUMNS, where, [now], order="available_at, id", limit=limit, lock=True)
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def _without_company(rows: list[dict[str, Any]], alone: bool) -> tuple[list[dict[str, Any]], bool]:
    first_suspect = next((n for n, row in enumerate(rows) if row["reserved_by"]), None)
    if first_suspect is None:
        return rows, False
    if first_suspect > 0:
        return rows[:first_suspect], False
    return (rows[:1], False) if alone else ([], True)


def _reserve(pipeline: Pipeline[Any, Any], using: str, ids: Sequence[int], now: datetime, worker: str) -> None:
    parameters = [now + lease(pipeline), now, worker]
    changed = update_where(using, pipeline.Input, _RESERVE, f"id IN ({id_list(ids)})", parameters)
    if changed != len(ids):
        raise LeaseLost(f"{pipeline.id}: claimed {changed} of {len(ids)} locked entries.")


def _claim(pipeline: Pipeline[Any, Any], row: dict[str, Any], now: datetime) -> Claim:
    row["crashes"] += bool(row.pop("reserved_by"))
    row["epoch"] += 1
    row["attempt"] += 1
    row["started_at"] = row["started_at"] or now
    return Claim(pipeline, **row)


def load_steps(pipeline: Pipeline[Any, Any], using: str, claims: Iterable[Claim]) -> None:
    """Give claimed workflows the steps of their branch, in order: one statement for all."""
    if pipeline.kind != "workflow":
        return
    by_run = {claim.id: claim for claim in claims}
    where = f"run_id IN ({id_list(by_run)})"
    rows = select_rows(using, pipeline.models["Step"], STEP_COLUMNS, where, order="run_id, branch, id")
    for run_id, branch, *columns in rows:
        if branch == by_run[run_id].branch:
            by_run[run_id].steps.append(RecordedStep(*columns))
    for claim in by_run.values():
        claim.steps.sort(key=_index)


_index = attrgetter("index")
