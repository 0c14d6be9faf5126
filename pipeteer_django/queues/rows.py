"""The engine's columns of locked Input rows, changed in memory and written back together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeteer_django.exceptions import LeaseLost
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.statements import id_list, select_rows, update_rows

_READ = (
    "id", "key", "output", "priority", "caller", "step_id", "epoch", "available_at", "reserved_by", "attempt",
    "crashes", "suspended", "deliveries", "branch", "created_at",
)  # fmt: skip
_STATE = ("epoch", "available_at", "reserved_by", "attempt", "crashes", "suspended", "deliveries")


@dataclass(slots=True)
class Row:
    """One locked row. Whatever moves it goes through one of the verbs below, each of which bumps the epoch."""

    id: int
    key: str
    output: str
    priority: int
    caller: str
    step_id: int | None
    epoch: int
    available_at: datetime | None
    reserved_by: str
    attempt: int
    crashes: int
    suspended: bool
    deliveries: int
    branch: int
    created_at: datetime
    changed: bool = field(default=False, compare=False)
    gone: bool = False
    failure: tuple[str, datetime | None] | None = None

    def held_by(self, worker: str, epoch: int) -> bool:
        """Whether this worker process holds it, by the claim that wrote this epoch."""
        return (self.reserved_by, self.epoch) == (worker, epoch)

    def deliver(self, now: datetime) -> None:
        """An event arrived for it: wake it if it sleeps. Not a move, so the epoch stays."""
        self.deliveries += 1
        self.changed = True
        if self.suspended:
            self.available_at = min(self.available_at or now, now)

    def sleep(self, due: datetime | None, now: datetime, seen: int) -> None:
        """Wait for the next event, unless one came that the run has not seen."""
        self._leave(due if self.deliveries == seen else now)
        self.suspended = True
        self.attempt = 0

    def wait_until(self, when: datetime, error: str) -> None:
        """Try again at `when`."""
        self._leave(when)
        self.failure = (error, None)

    def release(self, when: datetime) -> None:
        """Hand back an attempt that does not count."""
        self._leave(when)
        self.attempt = max(0, self.attempt - 1)

    def park(self, error: str, now: datetime) -> None:
        """Given up: stays in the queue until a person acts."""
        self._leave(None)
        self.failure = (error, now)

    def _leave(self, available_at: datetime | None) -> None:
        self.epoch += 1
        self.available_at = available_at
        self.reserved_by = ""
        self.crashes = 0
        self.suspended = False
        self.changed = True


Locked = dict[str, dict[int, Row]]
"""Locked rows by pipeline id and row id."""


def lock(using: str, wanted: Mapping[str, Iterable[int]], *, wait: bool) -> Locked:
    """Lock Input rows in one order everywhere, (table, id).

    A worker never waits for one: somebody's long `atomic()` must not stop the others, and who never waits never
    takes part in a deadlock. Rows that are not in the answer are locked by somebody else, or gone.
    """
    tables = sorted((pipeline(id).Input._meta.db_table, id) for id in wanted)
    return {id: _lock_one(using, pipeline(id), wanted[id], wait) for _, id in tables}


def _lock_one(using: str, of: Pipeline[Any, Any], ids: Iterable[int], wait: bool) -> dict[int, Row]:
    rows = select_rows(using, of.Input, _READ, f"id IN ({id_list(ids)})", order="id", lock=True, wait=wait)
    return {row[0]: Row(*row) for row in rows}


def epochs(using: str, of: Pipeline[Any, Any], ids: Iterable[int]) -> dict[int, int]:
    """The epochs of these rows as they are now, without locking."""
    return dict(plain(of.Input, using).filter(id__in=list(ids)).values_list("id", "epoch"))


def pipeline(id: str) -> Pipeline[Any, Any]:
    """The pipeline of an id that this process has already used."""
    return registry.find(id)


def delete_rows(using: str, of: Pipeline[Any, Any], ids: Iterable[int]) -> None:
    """Delete locked rows; what users' own tables point at them with is treated as Django would."""
    chosen = list(ids)
    if not chosen:
        return
    _, by_model = plain(of.Input, using).filter(id__in=chosen).delete()
    deleted = by_model.get(of.Input._meta.label, 0)
    if deleted != len(chosen):
        raise LeaseLost(f"{of.id}: deleted {deleted} of {len(chosen)} locked entries.")


def write(using: str, locked: Locked) -> None:
    """Write back what changed: two statements per table at most, however many rows."""
    for id, rows in locked.items():
        model = pipeline(id).Input
        changed = {row.id: [getattr(row, c) for c in _STATE] for row in rows.values() if row.changed and not row.gone}
        all_written(id, changed, update_rows(using, model, _STATE, changed))
        failures = {row.id: row.failure for row in rows.values() if row.failure and not row.gone}
        all_written(id, failures, update_rows(using, model, ("error", "failed_at"), failures))
        delete_rows(using, pipeline(id), [row.id for row in rows.values() if row.gone])


def all_written(id: str, meant: Collection[Any], changed: int) -> None:
    """Raise LeaseLost, so that the transaction rolls back, if a write did not change every row it was meant for."""
    if changed != len(meant):
        raise LeaseLost(f"{id}: changed {changed} of {len(meant)} locked rows; somebody deleted the others.")
