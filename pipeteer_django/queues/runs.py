"""What people and application code do to the runs of a workflow, each in a transaction of its own or the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.db.models import F, Q, QuerySet

from pipeteer_django.exceptions import EntryChanged, InvalidValue, RunGone
from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import CANCEL, KNOWN, TIMER
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.cancel import ask_to_cancel, cancel_open, cancel_steps
from pipeteer_django.queues.children import children
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import time_of
from pipeteer_django.queues.deliver import Result, insert_messages, record_results
from pipeteer_django.queues.hints import leaving, moved, wake_on_commit
from pipeteer_django.queues.people import complete, fresh, remove
from pipeteer_django.queues.rows import Row, all_written, lock, write


def send(workflow: Pipeline[Any, Any], using: str, key: str, name: str, value: Any) -> None:
    """Put a message (JSON) into the inbox of the run under `key`; raises RunGone where there is none."""
    with transaction.atomic(using=using):
        row = _locked(workflow, using, key)
        now = time_of(using)
        insert_messages(using, workflow.id, [(row.id, name, value, now)])
        _deliver(workflow, using, row)


def cancel(workflow: Pipeline[Any, Any], using: str, ids: Sequence[int]) -> int:
    """Let these runs clean up and end; returns how many there were."""
    with transaction.atomic(using=using):
        # Locked first: what is to clean up must not be given up between the look and the deed.
        rows = lock(using, {workflow.id: ids}, wait=True)[workflow.id]
        idle = {row.id for row in rows.values() if not row.can_clean_up}
        remove(workflow, using, idle)  # by the one door, so that callers are told
        leaving(workflow, "cancelled", rows.keys() - idle)
        ask_to_cancel(using, workflow, rows.keys() - idle, time_of(using), wait=True)
        moved(using, workflow, "cancelled", rows.keys() - idle)
        wake_on_commit(using, workflow.id)
    return len(rows)


def _forget_cancellation(workflow: Pipeline[Any, Any], using: str, ids: Sequence[int]) -> None:
    """Whoever lets runs begin again no longer wants them cancelled."""
    _messages(workflow, using).filter(run_id__in=ids, name=CANCEL, order=None).delete()


def restart(pipeline: Pipeline[Any, Any], using: str, ids: Sequence[int]) -> int:
    """Run entries again from the beginning, on a new branch; what the old one had outstanding is deleted."""
    with transaction.atomic(using=using):
        rows = plain(pipeline.Input, using).filter(id__in=ids)
        locked = dict(rows.order_by("id").select_for_update().values_list("id", "branch"))
        if pipeline.kind == "workflow":
            cancel_open(using, pipeline.id, locked, time_of(using), softly=False)
            _forget_cancellation(pipeline, using, list(locked))
            for branch in set(locked.values()):
                ids = [id for id in locked if locked[id] == branch]
                taken = _messages(pipeline, using).filter(run_id__in=ids, branch=branch).exclude(name=CANCEL)
                taken.update(order=None, branch=None)
        restarted = rows.filter(id__in=locked).update(
            branch=F("branch") + 1,
            started_at=None,
            error="",
            progress=None,
            progress_text="",
            **fresh(),
            reserved_by="",
        )
        all_written(pipeline.id, locked, restarted)
        moved(using, pipeline, "restarted", locked)
        wake_on_commit(using, pipeline.id)
    return restarted


def rerun(workflow: Pipeline[Any, Any], using: str, key: str, from_step: int) -> int:
    """Run again from a step on; returns the id of the run, a new one where the old one was over."""
    with transaction.atomic(using=using):
        try:
            row = _locked(workflow, using, key)
        except RunGone:
            return _copy(workflow, using, key, from_step)
        step = _step(workflow, using, row.id, row.branch, from_step)
        _forget_cancellation(workflow, using, [row.id])
        _new_branch(workflow, using, row, Q(index__lt=from_step), step.after)
        moved(using, workflow, "rerun", [row.id])
    return row.id


def correct(workflow: Pipeline[Any, Any], using: str, key: str, number: int, value: Any) -> None:
    """Give a step another result."""
    with transaction.atomic(using=using):
        lock_with_child(workflow, using, _ids(workflow, using, key), number)
        row = _locked(workflow, using, key)
        step = _step(workflow, using, row.id, row.branch, number)
        result = _typed(step, value)
        if step.cancelled_at is not None:
            raise InvalidValue(f"{workflow.id} {key!r}: step {number} was cancelled, nobody waits for its result.")
        if step.done_at is None:
            _complete(workflow, using, row, step, value, result)
            return
        # The run goes on from before it took the old result.
        before = _last(workflow, using, row) if step.order is None else step.order - 1
        _new_branch(workflow, using, row, Q(after__lte=before), before)
        _replace(workflow, using, row, step, result)
        moved(using, workflow, "corrected", [row.id])


def lock_with_child(workflow: Pipeline[Any, Any], using: str, ids: Sequence[int], number: int) -> None:
    """Lock a run together with the entry of its open step, in the one order.

    Who completes that entry locks both, too. If the run came first here, each could wait for the other.
    """
    wanted = {workflow.id: set(ids)}
    steps = _steps(workflow, using).filter(run_id__in=ids, index=number, done_at=None, cancelled_at=None)
    for step_id, id in steps.values_list("id", "pipeline"):
        child = registry.get(id)
        if child is not None:
            entries = children(child, using, workflow.id, [step_id])
            wanted.setdefault(id, set()).update(entries.values_list("id", flat=True))
    lock(using, wanted, wait=True)


def _typed(step: Any, value: Any) -> Any:
    """The JSON of a step's new result."""
    if step.pipeline == TIMER:
        return None
    if step.order == KNOWN or registry.get(step.pipeline) is None:
        raise InvalidValue(f"step {step.index} is {step.pipeline!r}, which has no result that could be corrected.")
    return registry.find(step.pipeline).output.to_json(value)


def _complete(workflow: Pipeline[Any, Any], using: str, row: Row, step: Any, value: Any, result: Any) -> None:
    """End a step that is still open, its entry included."""
    child = registry.get(step.pipeline)
    if child is not None:
        id = children(child, using, workflow.id, [step.id]).values_list("id", flat=True).first()
        if id is not None and complete(child, using, id, Done(child.output.check(value), leaves_open=True)):
            return
    if not record_results(using, workflow.id, {step.id: Result(result, None, time_of(using))}):
        # Only an atomic child can: it records its result without a lock on its caller's row.
        raise EntryChanged(f"Step {step.index} of {workflow.id} {row.key!r} has just come to its end. Look again.")
    _deliver(workflow, using, row)


def _replace(workflow: Pipeline[Any, Any], using: str, row: Row, step: Any, result: Any) -> None:
    """The kept step stays as history on the old branch; a copy with the new result takes its place."""
    steps = _steps(workflow, using)
    old, new = row.branch, row.branch + 1
    all_written(workflow.id, [step.id], steps.filter(id=step.id).update(branch=old, order=step.order))
    step.pk, step.branch, step.order, step.result, step.error = None, new, None, result, None
    step.save(force_insert=True, using=using)


def _new_branch(workflow: Pipeline[Any, Any], using: str, row: Row, kept: Q, last: int) -> None:
    """Go on from event number `last` on a branch of its own, with the steps that are kept."""
    now = time_of(using)
    branch = _steps(workflow, using).filter(run_id=row.id, branch=row.branch)
    later = list(branch.exclude(kept).values_list("id", flat=True))
    cancel_steps(using, workflow.id, later, now, softly=False)
    mine = branch.filter(kept)
    mine.filter(order__gt=last).update(order=None)
    mine.filter(done_at__isnull=False).update(cancelled_at=None)  # what the old way had no use for
    mine.update(branch=row.branch + 1)
    messages = _messages(workflow, using).filter(run_id=row.id, branch=row.branch)
    messages.filter(order__gt=last).exclude(name=CANCEL).update(order=None, branch=None)
    messages.filter(order__lte=last).update(branch=row.branch + 1)
    entry = plain(workflow.Input, using).filter(id=row.id)
    all_written(workflow.id, [row.id], entry.update(branch=F("branch") + 1, error="", **fresh(), reserved_by=""))
    wake_on_commit(using, workflow.id)


def _copy(workflow: Pipeline[Any, Any], using: str, key: str, from_step: int) -> int:
    """A new entry for a run that is over, with a copy of what is kept of its record."""
    output = plain(workflow.Output, using).filter(key=key).order_by("-run_id").first()
    if output is None:
        raise RunGone(f"{workflow.id} has no run under the key {key!r}.")
    step = _step(workflow, using, output.run_id, output.branch, from_step)
    value = workflow.input.to_stored(workflow.input.from_json(output.param))
    attribute = workflow.Input._meta.get_field("value").attname
    entry = workflow.Input(**{attribute: value}, key=key, output=output.output)
    entry.save(using=using)
    steps = _steps(workflow, using).filter(run_id=output.run_id, branch=output.branch, index__lt=from_step)
    messages = _messages(workflow, using).filter(run_id=output.run_id, branch=output.branch)
    messages = messages.exclude(name=CANCEL, order__gt=step.after)
    # As if it had been claimed before and its messages had arrived, so that its first claim reads the record.
    as_before = {"epoch": 1, "started_at": output.started_at, "deliveries": messages.count()}
    all_written(workflow.id, [entry.pk], plain(workflow.Input, using).filter(id=entry.pk).update(**as_before))
    for row in [*steps.order_by("id"), *messages.order_by("id")]:
        row.pk, row.run_id, row.branch = None, entry.pk, 0
        if row.order is not None and row.order > step.after:
            row.order = None
        if getattr(row, "done_at", None) is not None:
            row.cancelled_at = None
        if row.order is None and hasattr(row, "sent_at"):
            row.branch = None
        row.save(force_insert=True, using=using)
    run_id: int = entry.pk
    return run_id


def _ids(workflow: Pipeline[Any, Any], using: str, key: str) -> list[int]:
    return list(plain(workflow.Input, using).filter(key=key).values_list("id", flat=True))


def _locked(workflow: Pipeline[Any, Any], using: str, key: str) -> Row:
    rows = lock(using, {workflow.id: _ids(workflow, using, key)}, wait=True)[workflow.id]
    if not rows:
        raise RunGone(
            f"{workflow.id} has no run in its queue under the key {key!r}: it is over, or never was enqueued."
        )
    (row,) = rows.values()
    return row


def _step(workflow: Pipeline[Any, Any], using: str, run_id: int, branch: int, number: int) -> Any:
    step = _steps(workflow, using).filter(run_id=run_id, branch=branch, index=number).first()
    if step is None:
        raise InvalidValue(f"Run {run_id} of {workflow.id} has no step {number}.")
    return step


def _last(workflow: Pipeline[Any, Any], using: str, row: Row) -> int:
    """The order of the last event that the run took."""
    orders = [
        rows.filter(run_id=row.id, branch=row.branch, order__isnull=False)
        .order_by("-order")
        .values_list("order", flat=True)
        .first()
        for rows in (_steps(workflow, using), _messages(workflow, using))
    ]
    return max((order for order in orders if order is not None), default=0)


def _deliver(workflow: Pipeline[Any, Any], using: str, row: Row) -> None:
    row.deliver(time_of(using))
    write(using, {workflow.id: {row.id: row}})
    wake_on_commit(using, workflow.id)


def _steps(workflow: Pipeline[Any, Any], using: str) -> QuerySet[Any]:
    return plain(workflow.models["Step"], using)


def _messages(workflow: Pipeline[Any, Any], using: str) -> QuerySet[Any]:
    return plain(workflow.models["Message"], using)
