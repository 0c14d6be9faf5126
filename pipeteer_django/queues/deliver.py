"""Steps: recording results where they belong, inserting new calls with their entries, cancelling what is left open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from pipeteer_django.pipelines.outcome import Call, Consumed
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.rows import all_written, delete_rows, pipeline
from pipeteer_django.queues.statements import id_list, insert_rows, select_rows, update_rows

_CHILD = (
    "key", "value", "output", "priority", "available_at", "caller", "step_id", "epoch", "reserved_by", "attempt",
    "crashes", "suspended", "deliveries", "holder", "branch", "error", "created_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
    """What a step is to record: a value as JSON, or an error."""

    value: Any
    error: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class Birth:
    """A new call of the run `run_id` of workflow `workflow`."""

    workflow: str
    run_id: int
    branch: int
    call: Call


def runs_of(using: str, caller: str, step_ids: Iterable[int]) -> dict[int, int]:
    """The run that each step belongs to: it never changes, so this needs no lock."""
    rows = select_rows(using, _model(caller), ("id", "run_id"), f"id IN ({id_list(step_ids)})", order="id")
    return {row[0]: row[1] for row in rows}


def record_results(using: str, caller: str, results: Mapping[int, Result], now: datetime) -> int:
    """Write results into steps that are still open; returns how many were."""
    rows = {id: (result.value, result.error, now) for id, result in results.items()}
    # A result of a step that is done or cancelled is dropped here: it belongs to a branch that is history.
    return update_rows(
        using, _model(caller), ("result", "error", "done_at"), rows, only_where_null=("done_at", "cancelled_at")
    )


def record_consumed(using: str, workflow: str, consumed: Iterable[Consumed]) -> None:
    """Record in which order a run took its events."""
    rows = {event.step_id: (event.order,) for event in consumed}
    all_written(workflow, rows, update_rows(using, _model(workflow), ("order",), rows))


def insert_calls(using: str, births: Sequence[Birth], now: datetime) -> set[str]:
    """Insert the steps and entries of new calls: all of a turn together. Returns the pipelines that got work."""
    by_workflow: dict[str, list[Birth]] = defaultdict(list)
    for birth in births:
        by_workflow[birth.workflow].append(birth)
    called: set[str] = set()
    for workflow, group in by_workflow.items():
        step_ids = _insert_steps(using, workflow, group, now)
        child_ids = _insert_children(using, group, step_ids, now)
        rows = {step: (child,) for step, child in child_ids.items()}
        all_written(workflow, rows, update_rows(using, _model(workflow), ("child_id",), rows))
        called |= {birth.call.pipeline.id for birth in group}
    return called


def _place(birth: Birth) -> tuple[int, int, int]:
    return birth.run_id, birth.branch, birth.call.index


def _insert_steps(using: str, workflow: str, births: Sequence[Birth], now: datetime) -> dict[tuple[int, ...], int]:
    rows = [(*_place(birth), birth.call.pipeline.id, birth.call.param, now) for birth in births]
    columns = ("run_id", "branch", "index", "pipeline", "param", "created_at")
    back = insert_rows(using, _model(workflow), columns, rows, returning=("id", "run_id", "branch", "index"))
    return {tuple(place): id for id, *place in back}


def _insert_children(
    using: str, births: Sequence[Birth], step_ids: Mapping[tuple[int, ...], int], now: datetime
) -> dict[int, int]:
    by_pipeline: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for birth in births:
        step_id = step_ids[_place(birth)]
        by_pipeline[birth.call.pipeline.id].append(_child(birth, step_id, now))
    child_ids: dict[int, int] = {}
    for id, rows in by_pipeline.items():
        for child_id, step_id in insert_rows(using, pipeline(id).Input, _CHILD, rows, returning=("id", "step_id")):
            child_ids[step_id] = child_id
    return child_ids


def _child(birth: Birth, step_id: int, now: datetime) -> tuple[Any, ...]:
    key = f"{birth.workflow}:{birth.run_id}:{birth.branch}:{birth.call.index}"
    value = birth.call.pipeline.input.to_stored(birth.call.value)
    return key, value, "output", 0, now, birth.workflow, step_id, 0, "", 0, 0, False, 0, "", 0, "", now


# Cancelling


def cancel_open(using: str, workflow: str, run_ids: Iterable[int], now: datetime) -> None:
    """Mark the open steps of these runs cancelled and delete their entries, and theirs in turn.

    An entry whose row is locked (an atomic body is running) is left: its own settle drops the result, or the sweep
    deletes it.
    """
    pending = {workflow: list(run_ids)}
    while pending:
        id, runs = pending.popitem()
        for child, ids in _cancel_steps(using, id, runs, now).items():
            deleted = _delete_unlocked(using, child, ids)
            if deleted and pipeline(child).kind == "workflow":
                pending.setdefault(child, []).extend(deleted)


def _cancel_steps(using: str, workflow: str, run_ids: Sequence[int], now: datetime) -> dict[str, list[int]]:
    """Returns the entries of the steps that were open, by pipeline."""
    still_open = _steps(workflow, using).filter(run_id__in=run_ids, done_at=None, cancelled_at=None)
    children: dict[str, list[int]] = defaultdict(list)
    steps = []
    for step_id, child, child_id in still_open.values_list("id", "pipeline", "child_id"):
        steps.append(step_id)
        if child_id is not None and registry.get(child):
            children[child].append(child_id)
    _steps(workflow, using).filter(id__in=steps, done_at=None).update(cancelled_at=now)
    return children


def _delete_unlocked(using: str, id: str, ids: Sequence[int]) -> list[int]:
    mine = plain(pipeline(id).Input, using).filter(id__in=ids).order_by("id").select_for_update(skip_locked=True)
    unlocked = list(mine.values_list("id", flat=True))
    delete_rows(using, pipeline(id), unlocked)
    return unlocked


def _model(workflow: str) -> Any:
    return step_model(pipeline(workflow))


def step_model(workflow: Pipeline[Any, Any]) -> Any:
    """The Step model of a pipeline that is a workflow."""
    return workflow.models["Step"]


def _steps(workflow: str, using: str) -> QuerySet[Any]:
    return plain(_model(workflow), using)
