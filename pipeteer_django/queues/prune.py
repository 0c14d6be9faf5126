"""Delete what is history and older than its pipeline's retention: a page at a time, each in a short transaction.

An output is history from the moment it finished. A step or a message is once its run has left the queue, or has gone on
to a later branch. What one page costs does not depend on how long the tables are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from django.db import IntegrityError, OperationalError, models, transaction

from pipeteer_django.conf import settings
from pipeteer_django.pipelines.pipeline import FromSettings, Pipeline
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import begin, is_contention, time_of

logger = logging.getLogger("pipeteer_django.prune")

PAGE = 500

_COLUMNS = {
    "Output": ("id", "finished_at"),
    "Step": ("id", "created_at", "run_id", "branch"),
    "Message": ("id", "sent_at", "run_id", "branch"),
}

Row = tuple[Any, ...]
"""What was read of a row, in the order of `_COLUMNS`."""
Progress = Callable[[type[models.Model], int], None]
"""Called after each page, with its table and how many of its rows went."""


def retention_of(pipeline: Pipeline[Any, Any]) -> timedelta | None:
    """How long a pipeline's history is kept; None: for ever."""
    return settings().RETENTION if isinstance(pipeline.retention, FromSettings) else pipeline.retention


class Pruner:
    """Prunes pipelines of one database in turn, and remembers how far it has come in each table."""

    def __init__(self, pipelines: Sequence[Pipeline[Any, Any]], using: str) -> None:
        self._using = using
        self._walks = [(pipeline, _walks(pipeline, using)) for pipeline in pipelines]
        self._next = -1

    def prune(self) -> int:
        """At most one page of each table of the next pipeline; returns how many rows it deleted."""
        if not self._walks:
            return 0
        self._next = (self._next + 1) % len(self._walks)
        pipeline, walks = self._walks[self._next]
        cutoff = _cutoff(self._using, retention_of(pipeline))
        return 0 if cutoff is None else sum(walk.prune(cutoff) for walk in walks)


def prune_all(
    pipelines: Iterable[Pipeline[Any, Any]],
    using: str,
    *,
    older_than: timedelta | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> int:
    """Prune everything that is old enough now (`older_than`: instead of the retention); returns how many rows went.

    With `dry_run` it deletes nothing and counts what would go.
    """
    total = 0
    for pipeline in pipelines:
        cutoff = _cutoff(using, retention_of(pipeline) if older_than is None else older_than)
        if cutoff is None:
            continue
        for walk in _walks(pipeline, using):
            under_way = True
            while under_way:
                count = walk.prune(cutoff, dry_run=dry_run)
                total += count
                if progress:
                    progress(walk.model, count)
                under_way = walk.under_way
    return total


def _cutoff(using: str, age: timedelta | None) -> datetime | None:
    """What is older than this goes; None if nothing is to go."""
    try:
        return None if age is None else time_of(using) - age
    except OverflowError:  # longer ago than the calendar begins
        return None


def _walks(pipeline: Pipeline[Any, Any], using: str) -> list[_Walk]:
    return [_Walk(pipeline, name, using) for name in _COLUMNS if name in pipeline.models]


class _Walk:
    """The way through one table, from its oldest row to the first that is too young, and then again."""

    def __init__(self, pipeline: Pipeline[Any, Any], name: str, using: str) -> None:
        self.model: type[models.Model] = pipeline.models[name]
        self._pipeline, self._using, self._columns = pipeline, using, _COLUMNS[name]
        self._after = 0
        self._warned = False

    @property
    def under_way(self) -> bool:
        """Whether the next page is not the first."""
        return self._after > 0

    def prune(self, cutoff: datetime, *, dry_run: bool = False) -> int:
        """Delete what may go of the next page; returns how many rows that were."""
        rows = self._page(cutoff)
        if rows and self.model is not self._pipeline.Output:
            rows = self._history(rows, cutoff)
        if rows and (protected := self._protected([row[0] for row in rows])):
            self._warn()
            rows = [row for row in rows if row[0] not in protected]
        return len(rows) if dry_run else self._delete(rows)

    def _page(self, cutoff: datetime) -> list[Row]:
        """Ids are given in the order of time, so behind the first row that is too young all are."""
        rows = plain(self.model, self._using).filter(id__gt=self._after).order_by("id")
        old = list(takewhile(lambda row: row[1] < cutoff, rows.values_list(*self._columns)[:PAGE]))
        # Moved on before anything is deleted: what cannot be deleted must not be met again and again.
        self._after = old[-1][0] if len(old) == PAGE else 0
        return old

    def _history(self, rows: Sequence[Row], cutoff: datetime) -> list[Row]:
        """The steps or messages of runs, or of branches of runs, that are over.

        A run that took longer than the retention does not lose them at its end: its output must be old, too.
        """
        runs = {run for _, _, run, _ in rows}
        live = dict(plain(self._pipeline.Input, self._using).filter(id__in=runs).values_list("id", "branch"))
        outputs = plain(self._pipeline.Output, self._using).filter(run_id__in=runs)
        recent = {run for run, finished in outputs.values_list("run_id", "finished_at") if finished >= cutoff}
        return [row for row in rows if row[2] not in recent and _is_over(row[3], live.get(row[2]))]

    def _protected(self, ids: Collection[int]) -> set[int]:
        """Those that users' rows point at with PROTECT."""
        found: set[int] = set()
        for relation in self.model._meta.related_objects:
            if relation.on_delete is models.PROTECT:
                pointing = plain(relation.related_model, self._using)
                name = f"{relation.field.name}__pk"
                found |= set(pointing.filter(**{f"{name}__in": ids}).values_list(name, flat=True))
        return found

    def _delete(self, rows: Sequence[Row]) -> int:
        if not rows:
            return 0
        try:
            with transaction.atomic(using=self._using):
                begin(self._using)
                return self._delete_unchanged(rows)
        except IntegrityError:
            # Django's ProtectedError (around a corner) and RestrictedError, or the database's own: find the culprit.
            if len(rows) == 1:
                self._warn()
                return 0
            middle = len(rows) // 2
            return self._delete(rows[:middle]) + self._delete(rows[middle:])
        except OperationalError as error:
            if not is_contention(error):
                raise
            return 0  # a row that goes with these is locked: the next pass comes by again

    def _delete_unchanged(self, rows: Sequence[Row]) -> int:
        """Nobody's lock is waited for. A step that was moved to a new branch since it was read stays."""
        chosen = plain(self.model, self._using).filter(id__in=[row[0] for row in rows])
        locked = chosen.order_by("id").select_for_update(skip_locked=True).values_list(*self._columns)
        ids = [row[0] for row in set(locked).intersection(rows)]
        _, by_model = plain(self.model, self._using).filter(id__in=ids).delete()
        return by_model.get(self.model._meta.label, 0)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s: rows that are old enough stay, because others point at them with PROTECT.", self.model._meta.label
            )


def _is_over(branch: int | None, live: int | None) -> bool:
    """Whether a branch is history, given the branch at which its run is (None: the run has left its queue)."""
    return live is None or (branch is not None and branch < live)
