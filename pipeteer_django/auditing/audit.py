"""The whole audit: the tables of some pipelines, in one snapshot, and the trails of those who worked on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeteer_django.auditing.comparing import Comparison
from pipeteer_django.auditing.entries import Entries
from pipeteer_django.auditing.reading import Trails
from pipeteer_django.auditing.records import Records
from pipeteer_django.auditing.rules import Finding
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import snapshot, time_of


@dataclass(slots=True)
class Audit:
    """Looks at pipelines that live in one database, reading only, a page at a time and beside running workers."""

    pipelines: Sequence[Pipeline[Any, Any]]
    using: str
    trail: Path | None = None
    """The folder that `PIPETEER["AUDIT"]` names."""
    looked: Counter[str] = field(default_factory=Counter)
    """How many rows and lines were looked at."""
    comparison: Comparison | None = None
    """What the trails were held against, where there are any."""

    def findings(self) -> Iterator[Finding]:
        """All that was found, as it is found. Raises DatabaseError, and FileNotFoundError where there is no trail."""
        # The order matters. What was written into a trail before now must be in a snapshot that is taken afterwards;
        # and whatever that snapshot no longer shows was announced in a trail before it vanished.
        trails = None if self.trail is None else Trails(self.trail)
        with snapshot(self.using):
            for pipeline in self.pipelines[:1]:
                plain(pipeline.Input, self.using).exists()  # the first read is what takes the snapshot
            for pipeline in self.pipelines:
                yield from self._tables(pipeline)
            if trails is not None:
                yield from self._history(trails)

    def _tables(self, pipeline: Pipeline[Any, Any]) -> Iterator[Finding]:
        entries = Entries(pipeline, self.using, self.looked)
        records = Records(pipeline, self.using, self.looked) if pipeline.kind == "workflow" else None
        now = time_of(self.using)
        for page in entries.pages():
            yield from entries.of_page(page)
            if records is not None:
                yield from records.of_sleepers(page, now)
        yield from entries.outputs()
        if records is not None:
            yield from records.findings()

    def _history(self, trails: Trails) -> Iterator[Finding]:
        self.comparison = Comparison(trails, self.using, self.pipelines)
        yield from self.comparison.findings()
        self.looked["lines"], self.looked["files"] = trails.lines, len(trails.files)
        self.looked["damaged"] = trails.damaged
