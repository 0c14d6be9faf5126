"""Repairs, at a fixed rate, what no turn can see. Each pass looks at one page of live entries, by primary key.

1. A suspended run whose step is done but was never fed (a crash between the two transactions of an atomic activity).
2. A suspended run whose open step has no entry any more (deleted by CASCADE or raw SQL): it gets StepFailed.
3. An entry whose step was cancelled while its row was locked: it is deleted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.db.models import Q

from pipeteer_django.pipelines.outcome import Failure
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import DatabaseNow, begin
from pipeteer_django.queues.deliver import Result, record_results, step_model
from pipeteer_django.queues.people import remove
from pipeteer_django.queues.rows import lock, write

PAGE = 500
_ASLEEP = Q(suspended=True) & (Q(available_at=None) | Q(available_at__gt=DatabaseNow()))

_VANISHED = Failure("Vanished", "its entry was deleted without its caller being told", "").as_json()


class Sweeper:
    """Remembers how far the walk through each queue has come."""

    def __init__(self, pipelines: Sequence[Pipeline[Any, Any]], using: str) -> None:
        self._pipelines = pipelines
        self._using = using
        self._after: dict[str, int] = defaultdict(int)

    def sweep(self) -> set[str]:
        """One page of every queue; returns the topics to wake."""
        topics: set[str] = set()
        for pipeline in self._pipelines:
            if pipeline.kind == "workflow":
                topics |= self._wake_overlooked(pipeline)
            topics |= self._delete_cancelled(pipeline)
        return topics

    def _page(self, name: str, pipeline: Pipeline[Any, Any], conditions: Q) -> list[tuple[Any, ...]]:
        place = f"{name} {pipeline.id}"
        rows = (
            plain(pipeline.Input, self._using)
            .filter(conditions, id__gt=self._after[place])
            .order_by("id")
            .values_list("id", "branch", "caller", "step_id")[:PAGE]
        )
        page = list(rows)
        self._after[place] = page[-1][0] if len(page) == PAGE else 0
        return page

    # Suspended runs

    def _wake_overlooked(self, workflow: Pipeline[Any, Any]) -> set[str]:
        branches = {id: branch for id, branch, *_ in self._page("runs", workflow, _ASLEEP)}
        steps = plain(step_model(workflow), self._using).filter(
            run_id__in=list(branches), cancelled_at=None, order=None
        )
        done: set[int] = set()
        still_open: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)
        for id, run, branch, child, child_id, done_at in steps.values_list(
            "id", "run_id", "branch", "pipeline", "child_id", "done_at"
        ):
            if branch != branches[run]:
                continue
            if done_at is not None:
                done.add(run)
            elif child_id is not None:
                still_open[child][child_id] = (run, id)
        vanished = self._vanished(still_open)
        return self._tell(workflow, done, vanished) if done or vanished else set()

    def _vanished(self, still_open: dict[str, dict[int, tuple[int, int]]]) -> dict[int, int]:
        """The run by step id, of open steps whose entry is gone."""
        gone: dict[int, int] = {}
        for child, by_child in still_open.items():
            pipeline = registry.get(child)
            if pipeline is None:
                continue  # code that is not deployed here may still have it
            alive = set(plain(pipeline.Input, self._using).filter(id__in=list(by_child)).values_list("id", flat=True))
            gone |= {step: run for id, (run, step) in by_child.items() if id not in alive}
        return gone

    def _tell(self, workflow: Pipeline[Any, Any], done: set[int], vanished: dict[int, int]) -> set[str]:
        with transaction.atomic(using=self._using):
            now = begin(self._using)
            locked = lock(self._using, {workflow.id: done | set(vanished.values())}, wait=False)
            rows = locked[workflow.id]
            results = {step: Result(None, _VANISHED) for step, run in vanished.items() if run in rows}
            # A child that settled since we looked has set done_at: record_results leaves such a step alone.
            record_results(self._using, workflow.id, results, now)
            for row in rows.values():
                if row.suspended:
                    row.deliver(now)
            write(self._using, locked)
        return {workflow.id} if rows else set()

    # Entries nobody waits for

    def _delete_cancelled(self, pipeline: Pipeline[Any, Any]) -> set[str]:
        by_caller: dict[str, dict[int, int]] = defaultdict(dict)
        for id, _branch, caller, step_id in self._page("children", pipeline, Q(step_id__isnull=False)):
            by_caller[caller][step_id] = id
        unwanted: list[int] = []
        for caller, by_step in by_caller.items():
            workflow = registry.get(caller)
            if workflow is not None:
                cancelled = plain(step_model(workflow), self._using).filter(
                    id__in=list(by_step), cancelled_at__isnull=False
                )
                unwanted += [by_step[step] for step in cancelled.values_list("id", flat=True)]
        if unwanted:
            remove(pipeline, self._using, unwanted)
        return set()
