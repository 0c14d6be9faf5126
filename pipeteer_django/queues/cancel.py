"""Cancelling what a run left open, down the tree.

Softly: a child workflow that has begun gets a message, so that it can clean up; what else it called is deleted. Hard:
everything is deleted. An entry whose row is locked (an atomic body is running) is left: its own settle drops the
result, or the sweep comes back to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Q

from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import CANCEL
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.children import children
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.deliver import insert_messages, step_model
from pipeteer_django.queues.rows import all_written, delete_rows, lock, pipeline, write
from pipeteer_django.queues.statements import update_rows

Topics = set[tuple[str, int]]
"""(pipeline id, priority) where entries became claimable."""


def cancel_open(using: str, workflow: str, run_ids: Iterable[int], now: datetime, *, softly: bool) -> Topics:
    """Mark the open steps of these runs cancelled, and cancel their entries."""
    return _cancel(using, workflow, _open(run_ids), now, softly=softly)


def cancel_steps(using: str, workflow: str, step_ids: Iterable[int], now: datetime, *, softly: bool = True) -> Topics:
    """Mark these steps cancelled where their result was not taken, and cancel their entries."""
    return _cancel(using, workflow, Q(id__in=list(step_ids), order=None), now, softly=softly)


def _open(run_ids: Iterable[int]) -> Q:
    return Q(run_id__in=list(run_ids), done_at=None)


def _cancel(using: str, workflow: str, which: Q, now: datetime, *, softly: bool) -> Topics:
    ready: Topics = set()
    pending = [(workflow, which)]
    while pending:
        id, chosen = pending.pop()
        for child, ids in _mark(using, id, chosen, now).items():
            of = pipeline(child)
            if of.kind == "workflow" and softly:
                ready |= ask_to_cancel(using, of, ids, now)
                continue
            deleted = delete_unlocked(using, of, ids)
            if deleted and of.kind == "workflow":
                pending.append((child, _open(deleted)))
    return ready


def _mark(using: str, workflow: str, chosen: Q, now: datetime) -> Mapping[str, Sequence[int]]:
    """Returns the entries of the steps chosen, by pipeline."""
    steps = plain(step_model(pipeline(workflow)), using)
    called: dict[str, list[int]] = defaultdict(list)
    marked = []
    for step_id, child in steps.filter(chosen, cancelled_at=None).values_list("id", "pipeline"):
        marked.append(step_id)
        if registry.get(child):
            called[child].append(step_id)
    if marked:
        steps.filter(chosen, id__in=marked).update(cancelled_at=now)
    return {child: _entries(using, workflow, child, step_ids) for child, step_ids in called.items()}


def _entries(using: str, workflow: str, child: str, step_ids: Sequence[int]) -> list[int]:
    of = pipeline(child)
    entries = dict(children(of, using, workflow, step_ids).values_list("step_id", "id"))
    if of.kind == "workflow":
        # What became of it can be looked at later, as of a child that has come to its end by itself.
        runs = {step_id: (run_id,) for step_id, run_id in entries.items()}
        all_written(workflow, runs, update_rows(using, step_model(pipeline(workflow)), ("child_id",), runs))
    return list(entries.values())


def delete_unlocked(using: str, of: Pipeline[Any, Any], ids: Sequence[int]) -> list[int]:
    """Delete entries that nobody waits for, without waiting for those who hold some; returns which."""
    mine = plain(of.Input, using).filter(id__in=ids).order_by("id").select_for_update(skip_locked=True)
    unlocked = list(mine.values_list("id", flat=True))
    delete_rows(using, of, unlocked)
    return unlocked


def ask_to_cancel(
    using: str, workflow: Pipeline[Any, Any], ids: Iterable[int], now: datetime, *, wait: bool = False
) -> Topics:
    """Let runs of a workflow clean up and end: each gets one message. What has not begun is deleted.

    A run that was given up can clean up nothing: it is deleted, with all that it had outstanding.
    """
    rows = lock(using, {workflow.id: ids}, wait=wait)[workflow.id]
    messages = plain(workflow.models["Message"], using).filter(run_id__in=list(rows), name=CANCEL)
    # A cancellation of a branch that is history was for that one.
    asked = {run for run, branch in messages.values_list("run_id", "branch") if branch in (None, rows[run].branch)}
    ready: Topics = set()
    for row in rows.values():
        if not row.can_clean_up:
            row.gone = True
        elif row.id not in asked:
            row.deliver(now)
            ready.add((workflow.id, row.priority))
    told = [(row.id, CANCEL, None, now) for row in rows.values() if not row.gone and row.id not in asked]
    insert_messages(using, workflow.id, told)
    over = [row.id for row in rows.values() if row.gone]
    write(using, {workflow.id: rows})
    if over:
        cancel_open(using, workflow.id, over, now, softly=False)
    return ready
