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
from pipeteer_django.queues.cancel import ask_to_cancel, delete_unlocked
from pipeteer_django.queues.children import children
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import ago, aware, begin, fetch, literal
from pipeteer_django.queues.deliver import Result, record_results, step_model
from pipeteer_django.queues.rows import lock, write

PAGE = 500

_VANISHED = Failure("Vanished", "its entry was deleted without its caller being told", "").as_json()

Priorities = Mapping[str, Iterable[int]]
"""The priorities in use, by pipeline id."""


_Walk = tuple[str, int, bool]
"""A workflow's id, a priority, and whether it is about runs with a timer."""


@dataclass(slots=True)
class _Overlooked:
    """What the steps of some sleeping runs of one workflow show."""

    done: set[int] = field(default_factory=set)
    """Runs that have an event to take."""
    still_open: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    """By pipeline and step: the run that waits for it."""


class Sweeper:
    """Walks through the queues of one database, a page at a time, and remembers how far it has come."""

    def __init__(self, pipelines: Sequence[Pipeline[Any, Any]], using: str) -> None:
        self._pipelines = list(pipelines)
        self._workflows = {pipeline.id: pipeline for pipeline in pipelines if pipeline.kind == "workflow"}
        self._using = using
        self._walked: dict[_Walk, tuple[int, Any] | None] = {}
        """How far the walks through sleeping runs have come: id and `available_at` of the last one seen."""
        self._after: dict[str, int] = defaultdict(int)
        """How far the walks through the queues' children have come."""
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
        walks = [
            (id, priority, timed)
            for id in self._workflows
            for priority in sorted({0, *priorities.get(id, ())})
            for timed in (False, True)
        ]
        found: dict[int, list[tuple[int, int, Any]]] = defaultdict(list)
        if walks:
            looks = " UNION ALL ".join(self._look(number, walk) for number, walk in enumerate(walks))
            for number, *row in fetch(self._using, looks):
                found[number].append((*row,))
        runs: dict[str, dict[int, int]] = defaultdict(dict)
        for number, walk in enumerate(walks):
            page = sorted(found[number], key=lambda row: (str(row[2]), row[0]))
            self._walked[walk] = (page[-1][0], page[-1][2]) if len(page) == PAGE else None
            runs[walk[0]] |= {run: branch for run, branch, _ in page}
        return {id: branches for id, branches in runs.items() if branches}

    def _look(self, number: int, walk: _Walk) -> str:
        """A page of sleeping runs: those without a timer by id, or those with one by its time."""
        id, priority, timed = walk
        connection = connections[self._using]
        table = connection.ops.quote_name(self._workflows[id].Input._meta.db_table)
        after, when = self._walked.get(walk) or (0, None)
        if not timed:
            # Asleep and failed entries are the ones that have no available_at; of the failed nothing is suspended.
            where = f"available_at IS NULL AND id > {after}"
        elif when is None:
            where = f"available_at > {ago(connection, 0)}"
        else:
            moment = literal(connection, aware(when))
            where = f"(available_at > {moment} OR (available_at = {moment} AND id > {after}))"
        return (
            f"SELECT * FROM (SELECT {number} AS n, id, branch, available_at FROM {table} WHERE priority = {priority} "
            f"AND suspended AND {where} ORDER BY available_at, id LIMIT {PAGE}) AS page{number}"
        )

    def _wake_overlooked(self, workflow: Pipeline[Any, Any], branches: Mapping[int, int]) -> set[str]:
        seen = self._steps(workflow, branches)
        vanished = self._vanished(workflow, seen)
        return self._tell(workflow, seen.done, vanished) if seen.done or vanished else set()

    def _steps(self, workflow: Pipeline[Any, Any], branches: Mapping[int, int]) -> _Overlooked:
        steps = plain(step_model(workflow), self._using).filter(
            run_id__in=list(branches), cancelled_at=None, order=None
        )
        seen = _Overlooked()
        for id, run, branch, child, done_at in steps.values_list("id", "run_id", "branch", "pipeline", "done_at"):
            if branch != branches[run]:
                continue
            if done_at is not None:
                seen.done.add(run)
            else:
                seen.still_open[child][id] = run
        return seen

    def _vanished(self, workflow: Pipeline[Any, Any], seen: _Overlooked) -> dict[int, int]:
        """The run by step id, of open steps whose entry is gone."""
        gone: dict[int, int] = {}
        for child, waiting in seen.still_open.items():
            pipeline = registry.get(child)
            if pipeline is None:
                continue  # a timer; or code that is not deployed here may still have it
            alive = set(children(pipeline, self._using, workflow.id, waiting).values_list("step_id", flat=True))
            gone |= {step: run for step, run in waiting.items() if step not in alive}
        return gone

    def _tell(self, workflow: Pipeline[Any, Any], done: set[int], vanished: Mapping[int, int]) -> set[str]:
        with transaction.atomic(using=self._using):
            now = begin(self._using)
            locked = lock(self._using, {workflow.id: done | set(vanished.values())}, wait=False)
            rows = locked[workflow.id]
            results = {step: Result(None, _VANISHED, now) for step, run in vanished.items() if run in rows}
            # A child that settled since we looked has set done_at: record_results leaves such a step alone.
            record_results(self._using, workflow.id, results)
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
        if not unwanted:
            return
        with transaction.atomic(using=self._using):
            now = begin(self._using)
            if pipeline.kind == "workflow":
                ask_to_cancel(self._using, pipeline, unwanted, now)
            else:
                delete_unlocked(self._using, pipeline, unwanted)

    def _page(self, pipeline: Pipeline[Any, Any]) -> list[tuple[int, str, int | None]]:
        rows = plain(pipeline.Input, self._using).filter(id__gt=self._after[pipeline.id]).order_by("id")
        page = list(rows.values_list("id", "caller", "step_id")[:PAGE])
        self._after[pipeline.id] = page[-1][0] if len(page) == PAGE else 0
        return page
