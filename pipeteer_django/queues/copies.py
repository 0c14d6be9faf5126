"""Copies of a run: all rows of it, and what a fixture that is loaded may do to a queue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

from django.db import models
from django.db.models import Max

from pipeteer_django.exceptions import RunGone
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.children import children
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import keep_ids_above, snapshot
from pipeteer_django.queues.hints import once_on_commit


def rows_of_run(pipeline: Pipeline[Any, Any], using: str, key: str) -> list[models.Model]:
    """The newest run under `key`, as it is at one moment: its entry or its output, its steps and messages of all
    branches, and the same of the entries that it has called and that are still there.

    Raises RunGone where there is no such run.
    """
    with snapshot(using):
        found = max(
            [
                *plain(pipeline.Input, using).filter(key=key).values_list("id"),
                *plain(pipeline.Output, using).filter(key=key).values_list("run_id"),
            ],
            default=None,
        )
        if found is None:
            raise RunGone(f"{pipeline.id} has no run under the key {key!r}: it was pruned, or never was enqueued.")
        outputs = plain(pipeline.Output, using).filter(run_id=found[0])
        return [*outputs, *_rows(pipeline, using, list(found))]


def _rows(pipeline: Pipeline[Any, Any], using: str, run_ids: list[int]) -> Iterator[models.Model]:
    """Entries with all that is below them."""
    yield from plain(pipeline.Input, using).filter(id__in=run_ids).order_by("id")
    if pipeline.kind != "workflow":
        return
    called: dict[str, list[int]] = defaultdict(list)
    for step in plain(pipeline.models["Step"], using).filter(run_id__in=run_ids).order_by("id"):
        yield step
        called[step.pipeline].append(step.id)
    yield from plain(pipeline.models["Message"], using).filter(run_id__in=run_ids).order_by("id")
    for id, step_ids in called.items():
        child = registry.get(id)
        if child is not None:
            there = children(child, using, pipeline.id, step_ids)
            yield from _rows(child, using, list(there.values_list("id", flat=True)))


# Fixtures


def keep_run_id(sender: Any, raw: bool, using: str, **kwargs: Any) -> None:
    """Receiver of post_save: the id of a run whose history comes from a fixture is not given to a new entry.

    A database counts on from the ids that it saw in a table, and the entry of a run that is over is not in the fixture.
    """
    if raw:
        pipeline = next(pipeline for pipeline in registry if sender in pipeline.models.values())
        # When all is there: `loaddata` itself sets PostgreSQL's sequences, by what is then in each table.
        once_on_commit(using, f":ids {pipeline.id}", partial(_keep_run_ids, pipeline, using))


def _keep_run_ids(pipeline: Pipeline[Any, Any], using: str) -> None:
    histories = [model for role, model in pipeline.models.items() if role != "Input"]
    last = max(plain(model, using).aggregate(last=Max("run_id"))["last"] or 0 for model in histories)
    keep_ids_above(using, pipeline.Input, last)
