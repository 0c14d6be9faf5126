"""Take entries out of a queue for a while: the oldest claimable ones, each by one worker only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from django.db.models import QuerySet

from pipeteer_django.conf import settings
from pipeteer_django.exceptions import LeaseLost
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import Record, RecordedMessage, RecordedStep
from pipeteer_django.queues.peek import claimable
from pipeteer_django.queues.statements import id_list, quoted, select_rows, update_where

COLUMNS = (
    "id", "key", "value", "output", "priority", "caller", "step_id", "epoch", "attempt", "crashes", "deliveries",
    "branch", "started_at", "created_at", "max_attempts", "reserved_by", "suspended",
)  # fmt: skip
STEP_COLUMNS = (
    "run_id", "branch", "id", "index", "pipeline", "param", "child_id", "result", "error", "done_at", "cancelled_at",
    "order",
)  # fmt: skip
MESSAGE_COLUMNS = ("run_id", "branch", "id", "name", "value", "sent_at", "order")

# MariaDB assigns from left to right: `crashes` looks at reserved_by and must come before it.
_RESERVE = (
    "crashes = CASE WHEN reserved_by = '' THEN crashes ELSE crashes + 1 END, epoch = epoch + 1, attempt = attempt + 1, "
    "available_at = %s, suspended = FALSE, started_at = COALESCE(started_at, %s), reserved_by = %s"
)


Kept = Callable[[str, int], "tuple[int, Sequence[int] | None] | None"]
"""What this process keeps of a run in memory, by pipeline id and run id: its epoch, and the steps that it waits for,
None where only the database knows those."""


def nothing_kept(pipeline_id: str, run_id: int) -> None:
    """Keeps no runs."""


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
    max_attempts: int | None
    now: datetime
    """The database's time when it was claimed."""
    record: Record = field(default_factory=Record)
    """Of a workflow: what is written down about it; of a warm one only what is new."""
    warm: bool = False
    """This process keeps the run in memory, as it was before the claim."""
    ahead: timedelta = timedelta(0)
    """How far a test has moved the time."""


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
    pipeline: Pipeline[Any, Any],
    using: str,
    *,
    priority: int,
    limit: int,
    now: datetime,
    worker: str,
    alone: bool,
    kept: Kept = nothing_kept,
) -> Claimed:
    """Claim up to `limit` entries of one priority; call it inside a turn.

    An entry whose last attempt never settled may have killed its process: it is claimed by itself, and only if the
    worker is `alone` (has nothing else at risk).
    """
    rows = _lock_candidates(pipeline, using, priority, limit, now, worker)
    emptied = len(rows) < limit and not any(row["reserved_by"] for row in rows)
    rows, suspect_first = _without_company(rows, alone)
    if not rows:
        return Claimed(emptied=emptied, suspect_first=suspect_first)
    _reserve(pipeline, using, [row["id"] for row in rows], now, worker)
    claims = [claim_of(pipeline, row, now) for row in rows]
    if pipeline.kind == "workflow":
        _load(pipeline, using, claims, kept)
    return Claimed(claims, emptied)


def _lock_candidates(
    pipeline: Pipeline[Any, Any], using: str, priority: int, limit: int, now: datetime, worker: str
) -> list[dict[str, Any]]:
    """The order is the claim index's own, so nothing sorts and MariaDB locks no more rows than it returns."""
    where = f"priority = {int(priority)} AND available_at <= %s AND {claimable(pipeline, using, worker)}"
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


def claim_of(pipeline: Pipeline[Any, Any], row: dict[str, Any], now: datetime) -> Claim:
    """The claim that reserving this row makes."""
    row["crashes"] += bool(row.pop("reserved_by"))
    slept = row.pop("suspended")
    row["epoch"] += 1
    row["attempt"] += 1
    row["started_at"] = row["started_at"] or now
    return Claim(pipeline, **row, now=now, record=Record(slept=slept))


def _load(pipeline: Pipeline[Any, Any], using: str, claims: Sequence[Claim], kept: Kept) -> None:
    """Give claimed workflows what is written down about them: a few statements for all."""
    cold: list[Claim] = []
    unknown: list[int] = []
    open_steps: list[int] = []
    for claim in claims:
        there = kept(pipeline.id, claim.id)
        if there is not None and there[0] == claim.epoch - 1:
            claim.warm = True
            if there[1] is None:
                unknown.append(claim.id)
            else:
                open_steps += there[1]
        elif claim.epoch > 1 or claim.deliveries:  # else nothing ever happened to it
            cold.append(claim)
    by_run = {claim.id: claim for claim in claims}
    new = f"done_at IS NOT NULL AND {quoted(using, 'order')} IS NULL"
    if cold:
        _load_steps(pipeline, using, by_run, _branches(cold))
    if unknown:
        _load_steps(pipeline, using, by_run, f"run_id IN ({id_list(unknown)}) AND {new}")
    if open_steps:
        _load_steps(pipeline, using, by_run, f"id IN ({id_list(open_steps)}) AND {new}")
    load_messages(pipeline, using, {claim.id: claim for claim in claims if claim.warm and claim.deliveries}, new=True)
    load_messages(pipeline, using, {claim.id: claim for claim in cold if claim.deliveries})


def load(pipeline: Pipeline[Any, Any], using: str, claims: Sequence[Claim]) -> None:
    """Give these runs all that is written down about them."""
    by_run = {claim.id: claim for claim in claims}
    if claims:
        _load_steps(pipeline, using, by_run, _branches(claims))
    load_messages(pipeline, using, by_run)


def _branches(claims: Iterable[Claim], condition: str = "branch = {}") -> str:
    """The rows of these runs' present branches: what came before may be a long history."""
    runs: dict[int, list[int]] = defaultdict(list)
    for claim in claims:
        runs[claim.branch].append(claim.id)
    found = [f"({condition.format(branch)} AND run_id IN ({id_list(ids)}))" for branch, ids in runs.items()]
    return " OR ".join(found)


def _load_steps(pipeline: Pipeline[Any, Any], using: str, by_run: Mapping[int, Claim], where: str) -> None:
    rows = select_rows(using, pipeline.models["Step"], STEP_COLUMNS, where, order="run_id, branch, id")
    for run_id, branch, *columns in rows:
        if branch == by_run[run_id].branch:
            by_run[run_id].record.steps.append(RecordedStep(*columns))
    for claim in by_run.values():
        claim.record.steps.sort(key=_index)


def load_messages(pipeline: Pipeline[Any, Any], using: str, by_run: Mapping[int, Claim], *, new: bool = False) -> None:
    """Read messages into the record, only those not taken yet if `new`."""
    if not by_run:
        return
    where = _branches(by_run.values(), "(branch IS NULL OR branch = {})")
    if new:
        where = f"({where}) AND {quoted(using, 'order')} IS NULL"
    rows = select_rows(using, pipeline.models["Message"], MESSAGE_COLUMNS, where, order="run_id, id")
    for run_id, branch, *columns in rows:
        if branch in (None, by_run[run_id].branch):
            by_run[run_id].record.messages.append(RecordedMessage(*columns))


_index = attrgetter("index")
