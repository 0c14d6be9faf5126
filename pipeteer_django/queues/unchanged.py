"""What people do to a run that they have looked at: only while it is still what they saw, or else EntryChanged.

`runs.py` does what it is told, twice if it is told twice. Here the row is locked first, and compared with what the page
showed, so that of two people (or two clicks) one does it and the other is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q

from pipeteer_django.exceptions import EntryChanged, InvalidValue
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import CANCEL
from pipeteer_django.queues import people, runs
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.hints import wake_on_commit


@dataclass(frozen=True, slots=True)
class Seen:
    """A run as somebody saw it. The branch moves when its past is changed; the epoch at every move of its row."""

    run_id: int
    branch: int
    epoch: int | None = None


def correct(
    workflow: Pipeline[Any, Any], using: str, seen: Seen, number: int, done_at: datetime | None, value: Any
) -> None:
    """`runs.correct`, if the step is still open, or was done at `done_at`."""
    with transaction.atomic(using=using):
        runs.lock_with_child(workflow, using, [seen.run_id], number)
        entry = _locked(workflow, using, seen)
        steps = plain(workflow.models["Step"], using).filter(run_id=seen.run_id, branch=seen.branch, index=number)
        step = steps.values_list("done_at", "cancelled_at").first()
        if step is None:
            raise InvalidValue(f"Run {seen.run_id} of {workflow.id} has no step {number}.")
        if step != (done_at, None):
            raise EntryChanged(f"Step {number} of run {seen.run_id} has changed since you saw it. Look again.")
        runs.correct(workflow, using, entry.key, number, value)


def rerun(workflow: Pipeline[Any, Any], using: str, seen: Seen, number: int) -> int:
    """`runs.rerun` of this very run, in its queue or over; returns the id of the run that goes on."""
    try:
        with transaction.atomic(using=using):
            return runs.rerun(workflow, using, _key_of(workflow, using, seen), number)
    except IntegrityError as error:
        raise EntryChanged(f"Run {seen.run_id} of {workflow.id} is being run again by somebody else.") from error


def restart(workflow: Pipeline[Any, Any], using: str, seen: Seen) -> None:
    """`runs.restart`, once."""
    with transaction.atomic(using=using):
        entry = _locked(workflow, using, seen)
        runs.restart(workflow, using, [entry.pk])


def cancel(workflow: Pipeline[Any, Any], using: str, seen: Seen) -> None:
    """`runs.cancel`, unless the run has been asked to end already."""
    with transaction.atomic(using=using):
        entry = _locked(workflow, using, seen)
        asked = plain(workflow.models["Message"], using).filter(run_id=seen.run_id, name=CANCEL)
        if asked.filter(Q(branch=None) | Q(branch=seen.branch)).exists():
            raise EntryChanged(f"Run {seen.run_id} of {workflow.id} has been asked to end already.")
        runs.cancel(workflow, using, [entry.pk])


def retry(workflow: Pipeline[Any, Any], using: str, seen: Seen) -> None:
    """`people.retry`, if the row has not moved."""
    rows = plain(workflow.Input, using).filter(pk=seen.run_id, epoch=seen.epoch)
    with transaction.atomic(using=using):
        if not people.retry(rows):
            raise _changed(workflow, seen)
        wake_on_commit(using, workflow.id)


def _locked(workflow: Pipeline[Any, Any], using: str, seen: Seen) -> Any:
    rows = plain(workflow.Input, using).filter(pk=seen.run_id).only("key", "branch", "epoch")
    entry = rows.select_for_update().first()
    if entry is None:
        raise EntryChanged(f"Run {seen.run_id} of {workflow.id} has left its queue meanwhile.")
    if entry.branch != seen.branch:
        raise _changed(workflow, seen)
    return entry


def _key_of(workflow: Pipeline[Any, Any], using: str, seen: Seen) -> str:
    """The key under which `runs.rerun` finds this run and no other: a key may have come back."""
    if plain(workflow.Input, using).filter(pk=seen.run_id).exists():
        return str(_locked(workflow, using, seen).key)
    outputs = plain(workflow.Output, using)
    output = outputs.filter(run_id=seen.run_id).only("key").select_for_update().first()
    if output is None:
        raise EntryChanged(f"Run {seen.run_id} of {workflow.id} is gone: there is no record to go on from.")
    newest = outputs.filter(key=output.key).order_by("-run_id").values_list("run_id", flat=True).first()
    if newest != seen.run_id or plain(workflow.Input, using).filter(key=output.key).exists():
        raise EntryChanged(f"The key {output.key!r} has a newer run of {workflow.id}: that one can be run again.")
    return str(output.key)


def _changed(workflow: Pipeline[Any, Any], seen: Seen) -> EntryChanged:
    return EntryChanged(f"Run {seen.run_id} of {workflow.id} has changed since you saw it. Look again.")
