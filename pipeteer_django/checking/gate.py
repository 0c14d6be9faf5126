"""Whether this code may be deployed while runs are in flight: everything that would not go on under it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError, connections, router

from pipeteer_django.checking import values
from pipeteer_django.checking.deployment import system_checks, unapplied, unwritten
from pipeteer_django.checking.entries import entries, walk, with_records
from pipeteer_django.checking.findings import Finding
from pipeteer_django.checking.replays import Replays
from pipeteer_django.models import Worker
from pipeteer_django.pipelines.pipeline import Pipeline


@dataclass
class Gate:
    """Looks at these pipelines, reading only. Findings come as they are found, so that memory does not grow."""

    pipelines: Sequence[Pipeline[Any, Any]]
    replay: bool = False
    """Replay live runs, too."""
    only_values: bool = False
    """Leave out settings, database and migrations."""
    looked: Counter[str] = field(default_factory=Counter)
    """How many rows were looked at."""

    def findings(self) -> Iterator[Finding]:
        """All that was found. Raises DatabaseError if the database does not answer."""
        unready: set[str] = set()
        if not self.only_values:
            yield from system_checks({_alias(pipeline) for pipeline in self.pipelines})
            for finding, labels in self._migrations():
                unready |= labels
                yield finding
        for pipeline in self.pipelines:
            try:
                yield from self._tables(pipeline)
            except DatabaseError as error:
                if pipeline.Input._meta.app_label not in unready:
                    raise
                text = f"its tables could not be read before the migrations have run: {error}"
                yield Finding(kind="migration", text=text, pipeline=pipeline.id)

    def _migrations(self) -> Iterator[tuple[Finding, set[str]]]:
        """What is missing, with the apps whose tables may be unreadable by that."""
        for using in sorted({_alias(pipeline) for pipeline in self.pipelines}):
            here = [pipeline for pipeline in self.pipelines if _alias(pipeline) == using]
            labels = {Worker._meta.app_label, *(pipeline.Input._meta.app_label for pipeline in here)}
            for finding in (*unapplied(using, labels), *unwritten(labels)):
                yield finding, labels
            there = set(connections[using].introspection.table_names())
            for of, model in ((pipeline, model) for pipeline in here for model in pipeline.models.values()):
                if model._meta.db_table not in there:
                    text = f"the table {model._meta.db_table} does not exist."
                    yield Finding(kind="migration", text=text, pipeline=of.id), {model._meta.app_label}

    def _tables(self, pipeline: Pipeline[Any, Any]) -> Iterator[Finding]:
        using = _alias(pipeline)
        replays = Replays(pipeline, using)
        for page in entries(pipeline, using):
            self.looked["entries"] += len(page)
            for entry in page:
                yield from values.of_entry(entry)
            if pipeline.kind == "workflow":
                for batch in with_records(pipeline, using, page):
                    self.looked["records"] += len(batch)
                    for entry in batch:
                        yield from values.of_record(entry)
                    if self.replay:
                        yield from replays.differences(batch)
        self.looked["replays"] += replays.count
        for rows in walk(using, pipeline.Output, ("id", "key", "value"), "consumed_at IS NULL"):
            self.looked["outputs"] += len(rows)
            yield from values.of_outputs(pipeline, rows)


def _alias(pipeline: Pipeline[Any, Any]) -> str:
    return router.db_for_write(pipeline.Input)
