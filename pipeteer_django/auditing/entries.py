"""What must be true of the rows of queues and outputs, at any moment, by the database alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Q

from pipeteer_django.auditing.rules import Finding
from pipeteer_django.checking.entries import walk
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import CANCEL
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.deliver import step_model

_ENTRY = (
    "id", "key", "caller", "step_id", "epoch", "available_at", "reserved_by", "suspended", "failed_at", "started_at",
    "branch",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """The engine's columns of an Input row."""

    id: int
    key: str
    caller: str
    step_id: int | None
    epoch: int
    available_at: datetime | None
    reserved_by: str
    suspended: bool
    failed_at: datetime | None
    started_at: datetime | None
    branch: int

    @property
    def fault(self) -> tuple[str, str] | None:
        """The rule that the row breaks all by itself, and how."""
        claimed, failed = bool(self.reserved_by), self.failed_at is not None
        if (claimed, self.suspended, failed).count(True) > 1:
            states = {"claimed": claimed, "asleep": self.suspended, "given up": failed}
            return "E3", f"it is {' and '.join(state for state, so in states.items() if so)}"
        if claimed and (self.available_at is None or self.started_at is None or self.epoch < 1):
            return "E3", "it is claimed, but without the end of its lease, its start, or an epoch"
        if failed and self.available_at is not None:
            return "E3", "it was given up, and may be claimed all the same"
        if self.available_at is None and not (self.suspended or failed):
            return "E2", "it is not asleep and not given up, and has no time"
        return None

    def sleeps(self, now: datetime) -> bool:
        """Whether it waits for an event."""
        return self.suspended and (self.available_at is None or self.available_at > now)


@dataclass(slots=True)
class Entries:
    """The queue and the outputs of one pipeline."""

    pipeline: Pipeline[Any, Any]
    using: str
    counts: Counter[str] = field(default_factory=Counter)
    """How many rows it has looked at."""

    def pages(self) -> Iterator[list[Entry]]:
        """All entries, in the order of their ids."""
        for rows in walk(self.using, self.pipeline.Input, _ENTRY):
            yield [Entry(*row) for row in rows]

    def of_page(self, page: Sequence[Entry]) -> Iterator[Finding]:
        """What is wrong with these entries."""
        self.counts["entries"] += len(page)
        for entry in page:
            if entry.fault:
                yield self._finding(entry, *entry.fault)
        outputs = plain(self.pipeline.Output, self.using).filter(run_id__in=[entry.id for entry in page])
        ended = set(outputs.values_list("run_id", flat=True))
        for entry in page:
            if entry.id in ended:
                yield self._finding(entry, "E1", f"its output is there, and it is still at epoch {entry.epoch}")
        yield from self._children([entry for entry in page if entry.caller or entry.step_id is not None])

    def outputs(self) -> Iterator[Finding]:
        """What is wrong with the outputs."""
        for page in walk(self.using, self.pipeline.Output, ("id", "run_id", "key")):
            self.counts["outputs"] += len(page)
            first = {run_id: (id, key) for id, run_id, key in reversed(page)}
            twins = plain(self.pipeline.Output, self.using).filter(run_id__in=list(first))
            for id, run_id in twins.order_by("id").values_list("id", "run_id"):
                if id > first[run_id][0]:
                    text = f"it has the outputs {first[run_id][0]} and {id}"
                    yield Finding(rule="O1", pipeline=self.pipeline.id, run=run_id, key=first[run_id][1], text=text)

    def _children(self, children: Sequence[Entry]) -> Iterator[Finding]:
        by_caller: dict[str, list[Entry]] = defaultdict(list)
        for entry in children:
            if not entry.caller or entry.step_id is None:
                yield self._finding(entry, "E9", f"caller {entry.caller!r}, step {entry.step_id}")
            elif registry.get(entry.caller) is None:
                yield self._finding(entry, "E10", f"its caller is {entry.caller}")
            else:
                by_caller[entry.caller].append(entry)
        for caller, entries in by_caller.items():
            yield from self._twins(caller, entries)
            yield from self._steps(registry.find(caller), entries)

    def _twins(self, caller: str, entries: Sequence[Entry]) -> Iterator[Finding]:
        by_step = {entry.step_id: entry.id for entry in reversed(entries)}
        rows = plain(self.pipeline.Input, self.using).filter(caller=caller, step_id__in=list(by_step))
        for id, step_id, key in rows.order_by("id").values_list("id", "step_id", "key"):
            if id > by_step[step_id]:
                text = f"it was called by step {step_id} of {caller}, like run {by_step[step_id]}"
                yield Finding(rule="E7", pipeline=self.pipeline.id, run=id, key=key, text=text)

    def _steps(self, caller: Pipeline[Any, Any], entries: Sequence[Entry]) -> Iterator[Finding]:
        rows = plain(step_model(caller), self.using).filter(id__in=[entry.step_id for entry in entries])
        steps = {id: row for id, *row in rows.values_list("id", "pipeline", "done_at", "cancelled_at", "run_id")}
        cleaning = self._cleaning_up(entries)
        for entry in entries:
            if entry.step_id not in steps:
                if entry.id not in cleaning:  # that may take longer than the caller's record is kept
                    yield self._finding(entry, "E4", f"step {entry.step_id} of {caller.id} does not exist")
                continue
            pipeline, done_at, cancelled_at, run_id = steps[entry.step_id]
            place = f"step {entry.step_id} of {caller.id}, run {run_id},"
            if pipeline != self.pipeline.id:
                yield self._finding(entry, "E8", f"{place} calls {pipeline}")
            elif done_at is not None and cancelled_at is None:
                yield self._finding(entry, "E5", f"{place} ended at {done_at}")
            elif cancelled_at is not None and entry.id not in cleaning:
                yield self._finding(entry, "E6", f"{place} was cancelled at {cancelled_at}")

    def _cleaning_up(self, entries: Sequence[Entry]) -> set[int]:
        """Runs that were asked to end, and may take their time."""
        if self.pipeline.kind != "workflow":
            return set()
        rows = plain(self.pipeline.models["Message"], self.using)
        asked = rows.filter(Q(name=CANCEL), run_id__in=[entry.id for entry in entries])
        return set(asked.values_list("run_id", flat=True))

    def _finding(self, entry: Entry, rule: str, text: str) -> Finding:
        return Finding(rule=rule, pipeline=self.pipeline.id, run=entry.id, key=entry.key, text=text)
