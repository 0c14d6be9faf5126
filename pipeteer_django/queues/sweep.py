"""Repairs, at a fixed rate, what no turn can see. What one pass costs does not depend on how long the queues are.

1. A sleeping run whose step is done but was never fed (a crash between the two transactions of an atomic activity).
2. A sleeping run whose open step has no entry any more (deleted by CASCADE or raw SQL): it gets StepFailed.
3. An entry whose step was cancelled while its row was locked: it is deleted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connections, transaction

from pipeteer_django.pipelines.outcome import Failure
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import begin, fetch
from pipeteer_django.queues.deliver import Result, record_results, step_model
from pipeteer_django.queues.people import remove
from pipeteer_django.queues.rows import lock, write

PAGE = 500

_VANISHED = Failure("Vanished", "its entry was deleted without its caller being told", "").as_json()

Priorities = Mapping[str, Iterable[int]]
"""The priorities in use, by pipeline id."""


@dataclass(slots=True)
class _Overlooked:
    """What the steps of some sleeping runs of one workflow show."""

    done: set[int] = field(default_factory=set)
    """Runs that have an event to take."""
    still_open: dict[str, dict[int, tuple[int, int]]] = field(default_factory=lambda: defaultdict(dict))
    """By pipeline and child: the run and the step that wait for it."""


class Sweeper:
    """Walks through the queues of one database, a page at a time, and remembers how far it has come."""

    def __init__(self, pipelines: Sequence[Pipeline[Any, Any]], using: str) -> None:
        self._pipelines = list(pipelines)
        self._workflows = {pipeline.id: pipeline for pipeline in pipelines if pipeline.kind == "workflow"}
        self._using = using
        self._after: dict[tuple[str, int], int] = defaultdict(int)
        self._next = 0

    def sweep(self, priorities: Priorities | None = None) -> set[str]:
        """A page of every workflow's sleeping runs and one of one queue's children; returns the topics to wake."""
        topics: set[str] = set()
        for id, branches in self._sleeping(priorities or {}).items():
            topics |= self._wake_overlooked(self._workflows[id], branches)
        if self._pipelines:
            self._next = (self._next + 1) % len(self._pipelines)
            self._delete_cancelled(self._pipelines[self._next])
        return topics

    # Sleeping runs

    def _sleeping(self, priorities: Priorities) -> dict[str, dict[int, int]]:
        """Branches by run id, of each workflow: one statement, along the claim index."""
        places = [(id, priority) for id in self._workflows for priority in sorted({0, *priorities.get(id, ())})]
        found: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
        if places:
            looks = " UNION ALL ".join(self._look(number, place) for number, place in enumerate(places))
            for number, run, branch in fetch(self._using, looks):
                found[places[number]][run] = branch
        for place in places:
            page = found[place]
            self._after[place] = max(page) if len(page) == PAGE else 0
        runs: dict[str, dict[int, int]] = defaultdict(dict)
        for (id, _), page in found.items():
            runs[id] |= page
        return {id: branches for id, branches in runs.items() if branches}

    def _look(self, number: int, place: tuple[str, int]) -> str:
        id, priority = place
        table = connections[self._using].ops.quote_name(self._workflows[id].Input._meta.db_table)
        # Asleep and failed entries are the ones that have no available_at; of the failed nothing is suspended.
        return (
            f"SELECT * FROM (SELECT {number} AS n, id, branch FROM {table} WHERE priority = {priority} "
            f"AND available_at IS NULL AND suspended AND id > {self._after[place]} "
            f"ORDER BY id LIMIT {PAGE}) AS page{number}"
        )

    def _wake_overlooked(self, workflow: Pipeline[Any, Any], branches: Mapping[int, int]) -> set[str]:
        seen = self._steps(workflow, branches)
        vanished = self._vanished(seen)
        return self._tell(workflow, seen.done, vanished) if seen.done or vanished else set()

    def _steps(self, workflow: Pipeline[Any, Any], branches: Mapping[int, int]) -> _Overlooked:
        steps = plain(step_model(workflow), self._using).filter(
            run_id__in=list(branches), cancelled_at=None, order=None
        )
        seen = _Overlooked()
        columns = ("id", "run_id", "branch", "pipeline", "child_id", "done_at")
        for id, run, branch, child, child_id, done_at in steps.values_list(*columns):
            if branch != branches[run]:
                continue
            if done_at is not None:
                seen.done.add(run)
            elif child_id is not None:
                seen.still_open[child][child_id] = (run, id)
        return seen

    def _vanished(self, seen: _Overlooked) -> dict[int, int]:
        """The run by step id, of open steps whose entry is gone."""
        gone: dict[int, int] = {}
        for child, waiting in seen.still_open.items():
            pipeline = registry.get(child)
            if pipeline is None:
                continue  # code that is not deployed here may still have it
            entries = plain(pipeline.Input, self._using).filter(id__in=list(waiting))
            alive = set(entries.values_list("id", flat=True))
            gone |= {step: run for child_id, (run, step) in waiting.items() if child_id not in alive}
        return gone

    def _tell(self, workflow: Pipeline[Any, Any], done: set[int], vanished: Mapping[int, int]) -> set[str]:
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

    def _delete_cancelled(self, pipeline: Pipeline[Any, Any]) -> None:
        by_caller: dict[str, dict[int, int]] = defaultdict(dict)
        for id, caller, step_id in self._page(pipeline):
            if step_id is not None:
                by_caller[caller][step_id] = id
        unwanted: list[int] = []
        for caller, by_step in by_caller.items():
            workflow = registry.get(caller)
            if workflow is not None:
                steps = plain(step_model(workflow), self._using)
                cancelled = steps.filter(id__in=list(by_step), cancelled_at__isnull=False)
                unwanted += [by_step[step] for step in cancelled.values_list("id", flat=True)]
        if unwanted:
            remove(pipeline, self._using, unwanted)

    def _page(self, pipeline: Pipeline[Any, Any]) -> list[tuple[int, str, int | None]]:
        place = (pipeline.id, _CHILDREN)
        rows = plain(pipeline.Input, self._using).filter(id__gt=self._after[place]).order_by("id")
        page = list(rows.values_list("id", "caller", "step_id")[:PAGE])
        self._after[place] = page[-1][0] if len(page) == PAGE else 0
        return page


_CHILDREN = 1000
"""Stands where a priority does, for the walk through a queue's children."""
