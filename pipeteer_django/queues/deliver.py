"""Putting values where they belong: results into steps, messages into inboxes; and in which order runs took them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeteer_django.pipelines.outcome import Consumed
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.rows import all_written, pipeline
from pipeteer_django.queues.statements import id_list, insert_rows, select_rows, update_rows

_RESULT = ("result", "error", "done_at", "child_id")
_OPEN = ("done_at", "cancelled_at")
_MESSAGE = ("run_id", "name", "value", "sent_at")


@dataclass(frozen=True, slots=True)
class Result:
    """What a step is to record: a value as JSON, or an error; when that came about, and in which entry."""

    value: Any
    error: dict[str, str] | None
    at: datetime
    child: int | None = None

    @property
    def columns(self) -> tuple[Any, ...]:
        """As `_RESULT` names them."""
        return self.value, self.error, self.at, self.child


def runs_of(using: str, caller: str, step_ids: Iterable[int]) -> dict[int, int]:
    """The run that each step belongs to: it never changes, so this needs no lock."""
    rows = select_rows(using, _steps(caller), ("id", "run_id"), f"id IN ({id_list(step_ids)})", order="id")
    return {row[0]: row[1] for row in rows}


def record_results(using: str, caller: str, results: Mapping[int, Result]) -> int:
    """Write results into steps that are still open; returns how many were."""
    rows = {id: result.columns for id, result in results.items()}
    # A result of a step that is done or cancelled is dropped here: it belongs to a branch that is history.
    return update_rows(using, _steps(caller), _RESULT, rows, only_where_null=_OPEN)


def record_taken(
    using: str, caller: str, results: Mapping[int, Result], consumed: Iterable[tuple[Consumed, int]]
) -> Collection[int]:
    """Write those results that runs advanced in memory have already taken, and their order; returns their steps."""
    orders = {event.id: event.order for event, _ in consumed if not event.message and event.id in results}
    rows = {id: (*results[id].columns, order) for id, order in orders.items()}
    all_written(caller, rows, update_rows(using, _steps(caller), (*_RESULT, "order"), rows, only_where_null=_OPEN))
    return orders.keys()


def record_consumed(using: str, workflow: str, consumed: Iterable[tuple[Consumed, int]]) -> None:
    """Record in which order runs took their events; each comes with the branch that did."""
    steps: dict[int, tuple[Any, ...]] = {}
    timers: dict[int, tuple[Any, ...]] = {}
    messages: dict[int, tuple[Any, ...]] = {}
    for event, branch in consumed:
        if event.message:
            messages[event.id] = (event.order, branch)
        elif event.fired_at is not None:
            timers[event.id] = (event.order, event.fired_at)
        else:
            steps[event.id] = (event.order,)
    models = pipeline(workflow).models
    all_written(workflow, steps, update_rows(using, models["Step"], ("order",), steps))
    all_written(workflow, timers, update_rows(using, models["Step"], ("order", "done_at"), timers))
    all_written(workflow, messages, update_rows(using, models["Message"], ("order", "branch"), messages))


def insert_messages(using: str, workflow: str, messages: Iterable[tuple[int, str, Any, datetime]]) -> None:
    """Put messages into inboxes: (run id, name, JSON, when)."""
    insert_rows(using, pipeline(workflow).models["Message"], _MESSAGE, list(messages))


def _steps(workflow: str) -> Any:
    return step_model(pipeline(workflow))


def step_model(workflow: Pipeline[Any, Any]) -> Any:
    """The Step model of a pipeline that is a workflow."""
    return workflow.models["Step"]
