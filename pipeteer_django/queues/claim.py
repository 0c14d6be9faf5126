"""Take entries out of a queue for a while: the oldest claimable ones, each by one worker only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Case, Exists, F, QuerySet, Value, When
from django.db.models.functions import Coalesce

from pipeteer_django.conf import settings
from pipeteer_django.exceptions import LeaseLost
from pipeteer_django.models import Queue
from pipeteer_django.pipelines.outcome import RecordedStep
from pipeteer_django.pipelines.pipeline import Pipeline

COLUMNS = (
    "id", "key", "value", "output", "priority", "caller", "step_id", "epoch", "attempt", "crashes", "deliveries",
    "branch", "started_at", "created_at", "reserved_by",
)  # fmt: skip
STEP_COLUMNS = ("id", "index", "pipeline", "param", "child_id", "result", "error", "done_at", "order")


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
    return list(
        plain(pipeline.Input, using)
        .filter(
            ~Exists(Queue.objects.filter(pipeline=pipeline.id, held=True)), priority=priority, available_at__lte=now
        )
        .order_by("available_at", "id")
        .select_for_update(skip_locked=True)
        .values(*COLUMNS)[:limit]
    )


def _without_company(rows: list[dict[str, Any]], alone: bool) -> tuple[list[dict[str, Any]], bool]:
    first_suspect = next((n for n, row in enumerate(rows) if row["reserved_by"]), None)
    if first_suspect is None:
        return rows, False
    if first_suspect > 0:
        return rows[:first_suspect], False
    return (rows[:1], False) if alone else ([], True)


def _reserve(pipeline: Pipeline[Any, Any], using: str, ids: Sequence[int], now: datetime, worker: str) -> None:
    # MariaDB assigns from left to right: `crashes` looks at reserved_by and must come before it.
    changed = (
        plain(pipeline.Input, using)
        .filter(id__in=ids)
        .update(
            crashes=Case(When(reserved_by="", then=F("crashes")), default=F("crashes") + 1),
            epoch=F("epoch") + 1,
            attempt=F("attempt") + 1,
            available_at=now + lease(pipeline),
            suspended=False,
            started_at=Coalesce(F("started_at"), Value(now)),
            reserved_by=worker,
        )
    )
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
    rows = (
        plain(pipeline.Step, using)  # type: ignore[attr-defined]
        .filter(run_id__in=list(by_run))
        .order_by("run_id", "branch", "index")
        .values_list("run_id", "branch", *STEP_COLUMNS)
    )
    for run_id, branch, *columns in rows:
        if branch == by_run[run_id].branch:
            by_run[run_id].steps.append(RecordedStep(*columns))
