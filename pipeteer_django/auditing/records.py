"""What must be true of the records of runs, their steps and messages, at any moment, by the database alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet

from pipeteer_django.auditing.entries import Entry
from pipeteer_django.auditing.rules import Finding
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import ENGINES, TIMER
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.children import children
from pipeteer_django.queues.claim import plain

AT_ONCE = 2_000
"""Steps or messages read with one statement; of a longer run all of its own."""
MOST = 1_000
"""Rows told of where a whole table may be spoilt in the same way."""
_ROUNDING = timedelta(seconds=1)


class Step(NamedTuple):
    """A row of a Step table, without what it is about."""

    run: int
    branch: int
    number: int
    """Its index."""
    id: int
    pipeline: str
    child_id: int | None
    order: int | None
    done_at: datetime | None
    cancelled_at: datetime | None

    @property
    def open(self) -> bool:
        """Whether something will still come of it."""
        return self.done_at is None and self.cancelled_at is None


_STEP = ("run_id", "branch", "index", "id", "pipeline", "child_id", "order", "done_at", "cancelled_at")


@dataclass(slots=True)
class Records:
    """The steps and messages of one workflow."""

    workflow: Pipeline[Any, Any]
    using: str
    counts: Counter[str] = field(default_factory=Counter)
    """How many rows it has looked at."""

    def findings(self) -> Iterator[Finding]:
        """What is wrong with the tables of steps and messages."""
        yield from self._torn()
        for steps in self._pages("Step", _STEP, ("run_id", "branch", "index")):
            self.counts["steps"] += len(steps)
            yield from self._of_steps([Step(*step) for step in steps])
        for messages in self._pages("Message", ("run_id", "branch", "order"), ("run_id", "order", "id")):
            self.counts["messages"] += len(messages)
            yield from self._of_messages(messages)

    def of_sleepers(self, entries: Sequence[Entry], now: datetime) -> Iterator[Finding]:
        """What these entries should not sleep through."""
        sleeping = {entry.id: entry for entry in entries if entry.sleeps(now)}
        if not sleeping:
            return
        mine = Q(run_id__in=list(sleeping))
        done = self._rows("Step").filter(mine, order=None, cancelled_at=None, done_at__isnull=False)
        for run, branch, index in done.values_list("run_id", "branch", "index"):
            if branch == sleeping[run].branch:
                yield self._of_entry(sleeping[run], "S8", "its result is there, and was not taken", index)
        unread = self._rows("Message").filter(mine, order=None)
        for run, branch, name in unread.values_list("run_id", "branch", "name"):
            if branch in (None, sleeping[run].branch):
                yield self._of_entry(sleeping[run], "S9", f"the message {name!r} is there, and was not taken")
        timers = self._rows("Step").filter(mine, pipeline=TIMER, done_at=None, cancelled_at=None)
        for run, branch, index, due in timers.values_list("run_id", "branch", "index", "param"):
            entry = sleeping[run]
            late = entry.available_at is None or entry.available_at > datetime.fromisoformat(due) + _ROUNDING
            if branch == entry.branch and late:
                yield self._of_entry(entry, "S10", f"it is due at {due}, the run wakes {entry.available_at}", index)

    # Rows by themselves

    def _torn(self) -> Iterator[Finding]:
        """Rows that are neither one thing nor the other: asked for by what is wrong with them, so that they are few."""
        steps, messages = self._rows("Step"), self._rows("Message")
        both = steps.filter(result__isnull=False, error__isnull=False)
        yield from self._each(both, "S1", "it has a result and an error")
        early = Q(result__isnull=False) | Q(error__isnull=False) | Q(order__isnull=False)
        yield from self._each(steps.filter(early, done_at=None), "S2", "something came of it, but it has not ended")
        for run, id in messages.filter(order__isnull=False, branch=None).values_list("run_id", "id")[:MOST]:
            yield self._finding(run, "S2", f"message {id} was taken, but by no branch")

    def _each(self, rows: QuerySet[Any], rule: str, text: str) -> Iterator[Finding]:
        for run, index in rows.order_by("id").values_list("run_id", "index")[:MOST]:
            yield self._finding(run, rule, text, index)

    # Runs

    def _pages(self, role: str, columns: tuple[str, ...], order: tuple[str, ...]) -> Iterator[list[Any]]:
        """Rows in the order of an index that begins with the run, never half of a run."""
        after = 0
        while True:
            rows = self._rows(role).filter(run_id__gt=after).order_by(*order).values_list(*columns)
            page: list[Any] = list(rows[:AT_ONCE])
            if len(page) < AT_ONCE:
                if page:
                    yield page
                return
            last = page[-1][0]
            page = [row for row in page if row[0] != last] or list(rows.filter(run_id=last))
            yield page
            after = page[-1][0]

    def _of_steps(self, steps: Sequence[Step]) -> Iterator[Finding]:
        by_run: dict[int, list[Step]] = defaultdict(list)
        for step in steps:
            by_run[step.run].append(step)
        entries = plain(self.workflow.Input, self.using).filter(id__in=list(by_run))
        live = {id: (branch, key) for id, branch, key in entries.values_list("id", "branch", "key")}
        taken = self._taken(list(by_run))
        waiting: dict[str, dict[int, Step]] = defaultdict(dict)
        for run, own in by_run.items():
            branch, key = live.get(run, (None, ""))
            yield from self._numbers(run, own, taken[run], branch, key)
            for step in own:
                if not step.open:
                    continue
                if step.branch != branch:
                    where = "the run has left its queue" if branch is None else f"the run is at branch {branch}"
                    text = f"{step.pipeline} is open on branch {step.branch}, and {where}"
                    yield self._finding(run, "S6", text, step.number, key)
                elif step.pipeline not in ENGINES:
                    waiting[step.pipeline][step.id] = step
        for pipeline, open_steps in waiting.items():
            yield from self._vanished(pipeline, open_steps)
        yield from self._delivered_twice(steps)

    def _taken(self, runs: Sequence[int]) -> dict[int, list[tuple[int, int]]]:
        """Branch and order of the messages that runs have taken."""
        taken: dict[int, list[tuple[int, int]]] = defaultdict(list)
        rows = self._rows("Message").filter(run_id__in=runs, order__isnull=False)
        for run, branch, order in rows.values_list("run_id", "branch", "order"):
            taken[run].append((branch, order))
        return taken

    def _numbers(
        self, run: int, steps: Sequence[Step], messages: Sequence[tuple[int, int]], branch: int | None, key: str
    ) -> Iterator[Finding]:
        """Whether events and steps are numbered as they should; the record of what is over may be pruned in part."""
        orders = Counter((step.branch, step.order) for step in steps if step.order)
        orders.update(messages)
        for (of, order), count in orders.items():
            if count > 1:
                yield self._finding(run, "S3", f"{count} events of branch {of} have the number {order}", key=key)
        present = {order for of, order in orders if of == branch and order is not None}
        if branch is not None and present and len(present) != max(present):
            missing = min(set(range(1, max(present))) - present)
            yield self._finding(run, "S4", f"there is an event {max(present)}, but none {missing}", key=key)
        numbers = {step.number for step in steps if step.branch == branch}
        if numbers and len(numbers) != max(numbers) + 1:
            missing = min(set(range(max(numbers))) - numbers)
            yield self._finding(run, "S5", f"there is a step {max(numbers)}, but none {missing}", missing, key)

    def _of_messages(self, messages: Sequence[tuple[int, int | None, int | None]]) -> Iterator[Finding]:
        """Messages among themselves; those of runs that have steps were held against these before."""
        with_steps = self._rows("Step").filter(run_id__in={run for run, _, _ in messages})
        told = set(with_steps.values_list("run_id", flat=True))
        numbered = Counter(message for message in messages if message[2] is not None and message[0] not in told)
        for (run, branch, order), count in numbered.items():
            if count > 1:
                yield self._finding(run, "S3", f"{count} events of branch {branch} have the number {order}")

    def _vanished(self, id: str, steps: dict[int, Step]) -> Iterator[Finding]:
        pipeline = registry.get(id)
        if pipeline is None:
            for step in steps.values():
                yield self._finding(step.run, "S12", f"it waits for {id}", step.number)
            return
        alive = set(children(pipeline, self.using, self.workflow.id, steps).values_list("step_id", flat=True))
        for step_id, step in steps.items():
            if step_id not in alive:
                yield self._finding(step.run, "S7", f"its child is not in the queue of {id}", step.number)

    def _delivered_twice(self, steps: Sequence[Step]) -> Iterator[Finding]:
        by_pipeline: dict[str, dict[int, Step]] = defaultdict(dict)
        for step in steps:
            if step.child_id is not None:
                by_pipeline[step.pipeline][step.child_id] = step
        for id, ended in by_pipeline.items():
            pipeline = registry.get(id)
            if pipeline is not None:
                outputs = plain(pipeline.Output, self.using).filter(run_id__in=list(ended))
                for run in outputs.values_list("run_id", flat=True):
                    text = f"run {run} of {id} has an output, too"
                    yield self._finding(ended[run].run, "S11", text, ended[run].number)

    # Words

    def _rows(self, role: str) -> QuerySet[Any]:
        return plain(self.workflow.models[role], self.using)

    def _of_entry(self, entry: Entry, rule: str, text: str, step: int | None = None) -> Finding:
        return self._finding(entry.id, rule, text, step, entry.key)

    def _finding(self, run: int, rule: str, text: str, step: int | None = None, key: str = "") -> Finding:
        return Finding(rule=rule, pipeline=self.workflow.id, run=run, key=key, text=text, step=step)
