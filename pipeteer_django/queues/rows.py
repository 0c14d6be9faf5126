"""The engine's columns of locked Input rows, changed in memory and written back together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models.deletion import get_candidate_relations_to_delete
from django.db.models.signals import post_delete, pre_delete

from pipeteer_django.exceptions import LeaseLost
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.statements import delete_where, id_list, select_from_each, update_rows

_READ = (
    "id", "key", "output", "priority", "caller", "step_id", "epoch", "available_at", "reserved_by", "attempt",
    "crashes", "suspended", "deliveries", "holder", "branch", "started_at", "created_at", "failed_at",
)  # fmt: skip
_STATE = ("epoch", "available_at", "reserved_by", "attempt", "crashes", "suspended", "deliveries", "holder")
_PROGRESS = ("progress", "progress_text")
_AGAIN = ("value", "branch", "started_at", "progress", "progress_text")


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
    holder: str
    branch: int
    started_at: datetime | None
    created_at: datetime
    failed_at: datetime | None
    changed: bool = field(default=False, compare=False)
    gone: bool = False
    failure: tuple[str, datetime | None] | None = None
    progress: tuple[float | None, str] | None = None
    again: tuple[Any, ...] | None = None

    def held_by(self, worker: str, epoch: int) -> bool:
        """Whether this worker process holds it, by the claim that wrote this epoch."""
        return (self.reserved_by, self.epoch) == (worker, epoch)

    @property
    def given_up(self) -> bool:
        """Whether it waits for a person."""
        return self.failed_at is not None

    @property
    def can_clean_up(self) -> bool:
        """Whether a run that is cancelled has anything to end by itself: one that was given up cannot."""
        return self.started_at is not None and not self.given_up

    def deliver(self, now: datetime) -> None:
        """An event arrived for it: wake it if it sleeps. Not a move, so the epoch stays."""
        self.deliveries += 1
        self.changed = True
        if self.suspended:
            self.available_at = min(self.available_at or now, now)

    def sleep(self, due: datetime | None, now: datetime, seen: int, holder: str) -> None:
        """Wait for the next event, unless one came that the run has not seen. `holder` keeps the run warm."""
        self._leave(due if self.deliveries == seen else now)
        self.suspended = True
        self.attempt = 0
        self.holder = holder

    def sleeps(self, due: datetime | None, seen: int, holder: str) -> bool:
        """Whether it already sleeps like that, and no event came that the run has not seen."""
        return self.suspended and (self.available_at, self.deliveries, self.holder) == (due, seen, holder)

    def begin_again(self, value: Any, now: datetime) -> None:
        """Run from the beginning, with another value and on a branch of its own."""
        self._leave(now)
        self.attempt = 0
        self.branch += 1
        self.again = (value, self.branch, None, None, "")

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
    queries = [(pipeline(id).Input, f"id IN ({id_list(wanted[id])})") for _, id in tables]
    found = select_from_each(using, queries, _READ, order="id", wait=wait)
    return {id: {row[0]: Row(*row) for row in rows} for (_, id), rows in zip(tables, found, strict=True)}


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
    if nobody_points_at(of.Input):
        deleted = delete_where(using, of.Input, f"id IN ({id_list(chosen)})")
        all_written(of.id, chosen, deleted)
        return
    _, by_model = plain(of.Input, using).filter(id__in=chosen).delete()
    deleted = by_model.get(of.Input._meta.label, 0)
    if deleted != len(chosen):
        raise LeaseLost(f"{of.id}: deleted {deleted} of {len(chosen)} locked entries.")


def nobody_points_at(model: Any) -> bool:
    """Whether deleting rows of this table concerns nobody else, so that Django need not be asked."""
    listening = pre_delete.has_listeners(model) or post_delete.has_listeners(model)
    pointing = next(iter(get_candidate_relations_to_delete(model._meta)), None)
    return not (listening or pointing or model._meta.private_fields)


def write(using: str, locked: Locked) -> None:
    """Write back what changed: a few statements per table, however many rows."""
    for id, rows in locked.items():
        model = pipeline(id).Input
        changed = {row.id: [getattr(row, c) for c in _STATE] for row in rows.values() if row.changed and not row.gone}
        all_written(id, changed, update_rows(using, model, _STATE, changed))
        _write_some(using, id, ("error", "failed_at"), {row.id: row.failure for row in rows.values() if not row.gone})
        _write_some(using, id, _PROGRESS, {row.id: row.progress for row in rows.values() if not row.gone})
        _write_some(using, id, _AGAIN, {row.id: row.again for row in rows.values() if not row.gone})
        delete_rows(using, pipeline(id), [row.id for row in rows.values() if row.gone])


def _write_some(using: str, id: str, columns: tuple[str, ...], rows: Mapping[int, tuple[Any, ...] | None]) -> None:
    changed = {row_id: values for row_id, values in rows.items() if values is not None}
    all_written(id, changed, update_rows(using, pipeline(id).Input, columns, changed))


def all_written(id: str, meant: Collection[Any], changed: int) -> None:
    """Raise LeaseLost, so that the transaction rolls back, if a write did not change every row it was meant for."""
    if changed != len(meant):
        raise LeaseLost(f"{id}: changed {changed} of {len(meant)} locked rows; somebody deleted the others.")
