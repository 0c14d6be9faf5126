"""What the dashboard shows, as values: each queue, the workers, and what is not there yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import router
from django.utils import timezone

from pipeteer_django.models import Worker
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues import figures
from pipeteer_django.queues.database import time_of
from pipeteer_django.queues.paces import Pace, paces


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue: what is in it, how fast it moves, and who serves it."""

    pipeline: Pipeline[Any, Any]
    depth: figures.Depth
    pace: Pace
    now: datetime
    """The database's time."""
    held: bool
    served: bool
    """Whether a live worker runs it."""
    error: str
    """How the error of its newest failed entry ends."""

    @property
    def age(self) -> timedelta | None:
        """Since when the oldest entry that could be claimed could be."""
        oldest = self.depth.oldest
        return self.now - oldest.since if oldest is not None else None

    @property
    def is_quiet(self) -> bool:
        """Nothing is in it, and nothing was finished lately."""
        return not self.depth.total and not self.pace.finished

    @property
    def is_new(self) -> bool:
        """Nothing was ever in it, as far as its tables tell."""
        return self.is_quiet and self.depth.last_finished is None


@dataclass(slots=True)
class Standing:
    """All of it."""

    queues: list[Queue] = field(default_factory=list)
    workers: list[tuple[Worker, bool]] = field(default_factory=list)
    """Each with whether it is alive."""
    missing: list[Pipeline[Any, Any]] = field(default_factory=list)
    """Pipelines whose tables are not there."""

    @property
    def is_new(self) -> bool:
        """Nothing was ever enqueued."""
        return all(queue.is_new for queue in self.queues)

    @property
    def is_served(self) -> bool:
        """Whether any worker is alive."""
        return any(alive for _worker, alive in self.workers)

    @property
    def wants_worker(self) -> bool:
        """Whether there is anything that a worker could run."""
        return any(queue.pipeline.runs_here for queue in self.queues)


def read(pipelines: Sequence[Pipeline[Any, Any]], window: timedelta) -> Standing:
    """How these pipelines stand; a few statements for each database that they live in."""
    by_alias: dict[str, list[Pipeline[Any, Any]]] = defaultdict(list)
    for pipeline in pipelines:
        by_alias[router.db_for_write(pipeline.Input)].append(pipeline)
    standing = Standing()
    for using, there in by_alias.items():
        _read(standing, using, there, window)
    standing.queues.sort(key=lambda queue: queue.pipeline.id)
    return standing


def _read(standing: Standing, using: str, wanted: Sequence[Pipeline[Any, Any]], window: timedelta) -> None:
    living_here = [pipeline for pipeline in registry if pipeline.attached]
    missing = figures.without_tables(using, living_here)
    pipelines = [pipeline for pipeline in wanted if pipeline not in missing]
    callers = [
        pipeline
        for pipeline in living_here
        if pipeline.kind == "workflow" and pipeline not in missing and router.db_for_write(pipeline.Input) == using
    ]
    now, held = time_of(using), figures.held(using)
    workers = [(worker, figures.is_alive(worker, timezone.now())) for worker in figures.workers(using)]
    served = {id for worker, alive in workers if alive for id in figures.serves(worker)}
    depths, pace = figures.depths(using, pipelines), paces(using, pipelines, callers, now - window)
    errors = figures.last_errors(using, depths)
    standing.workers += workers
    standing.missing += [pipeline for pipeline in wanted if pipeline in missing]
    standing.queues += [
        Queue(p, depths[p.id], pace[p.id], now, p.id in held, p.id in served, errors.get(p.id, "")) for p in pipelines
    ]
