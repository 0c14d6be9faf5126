"""What the trails say against what the database shows: whether it has lost anything that was acknowledged."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

from pipeteer_django.auditing.history import History
from pipeteer_django.auditing.reading import Event, Trails
from pipeteer_django.auditing.rules import Finding
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import CANCEL
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import plain

AT_ONCE = 500
"""Runs looked up with one statement."""
STATES = ("outputs", "waiting", "failed", "deleted", "lost")
"""Where an entry that was enqueued can be: of these it is in one."""
_WITH_OUTPUT = ("done", "pushed")
"""Where an entry that was enqueued can be: of these it is in one."""


@dataclass(slots=True)
class Balance:
    """What became of the entries of one pipeline that were acknowledged as enqueued: inputs are the sum of the rest."""

    inputs: int = 0
    states: Counter[str] = field(default_factory=Counter)

    @property
    def even(self) -> bool:
        """Whether nothing is missing."""
        return self.inputs == sum(self.states[state] for state in STATES if state != "lost")

    def __str__(self) -> str:
        parts = [f"{self.states[state]} {state}" for state in STATES if self.states[state] or state == "outputs"]
        return f"{self.inputs} enqueued {'=' if self.even else '≠'} {' + '.join(parts)}"


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the database shows of some runs of one pipeline."""

    entries: dict[int, tuple[int, bool]]
    """Epoch, and whether it was given up."""
    outputs: set[int]
    asked: set[int]
    """Runs that somebody asked to be cancelled."""
    open_steps: set[tuple[str, int]]
    """Steps that are not closed, of those to which something was delivered."""


@dataclass(slots=True)
class Comparison:
    """Walks through the trails, one run after the other; what it needs of the database it looks up by the hundred."""

    trails: Trails
    using: str
    pipelines: Sequence[Pipeline[Any, Any]]
    balances: dict[str, Balance] = field(default_factory=lambda: defaultdict(Balance))
    unknown: set[str] = field(default_factory=set)
    """Pipelines in the trail that the code does not know."""

    def findings(self) -> Iterator[Finding]:
        """Call it inside a snapshot that is younger than the trails' mark."""
        chosen = {pipeline.id: pipeline for pipeline in self.pipelines}
        for id, runs in groupby(self.trails.runs(), key=lambda events: events[0].pipeline):
            if id not in chosen:
                self.unknown |= {id} if registry.get(id) is None else set()
                continue
            while batch := [History(events) for events in islice(runs, AT_ONCE)]:
                shown = self._shown(chosen[id], batch)
                for history in batch:
                    yield from self._of_run(history, shown)

    def _of_run(self, history: History, shown: _Shown) -> Iterator[Finding]:
        for fault in history.faults(self.trails.gaps):
            yield self._finding(fault.rule, history, fault.text, fault.events)
        run = history.events[0].run
        if len(history.births) < 2:
            yield from self._of_end(history, run, shown)
        if any(not event.late for event in history.births):
            yield from self._of_birth(history, run, shown)

    def _of_end(self, history: History, run: int, shown: _Shown) -> Iterator[Finding]:
        entry = shown.entries.get(run)
        for end in [event for event in history.ends if not event.late][:1]:
            outcome, step = end.facts.get("outcome") or end.facts["verb"], end.facts.get("step")
            if entry is not None:
                yield self._finding("T2", history, f"it is in its queue again, at epoch {entry[0]}", [end])
            elif outcome in ("deleted", "cancelled") and run in shown.outputs:
                yield self._finding("T6", history, f"it was {outcome}, and has an output", [end])
            elif step is not None and (step[0], step[1]) in shown.open_steps:
                yield self._finding("T5", history, f"step {step[1]} of {step[0]} is still open", [end])
            elif outcome in _WITH_OUTPUT and step is None and history.births and not _output_seen(history, run, shown):
                yield self._finding("T1", history, "it has no output, and nobody is known to have deleted it", [end])
        if entry is not None and entry[0] < history.reached and not history.ends:
            text = f"it is at epoch {entry[0]}, and {history.reached} was acknowledged"
            yield self._finding("T4", history, text, history.writes[history.reached])

    def _of_birth(self, history: History, run: int, shown: _Shown) -> Iterator[Finding]:
        state = _state(history, run, shown)
        balance = self.balances[history.events[0].pipeline]
        balance.inputs += 1
        balance.states[state] += 1
        if state == "lost" and not history.ends:  # (else it is told as a lost output)
            yield self._finding("T3", history, "it is neither in its queue nor in the outputs", history.births)

    def _finding(self, rule: str, history: History, text: str, events: Iterable[Event]) -> Finding:
        first = history.events[0]
        key = next((event.key for event in history.events if event.key), "")
        evidence = tuple(self.trails.name(event) for event in islice(events, 8))
        return Finding(rule=rule, pipeline=first.pipeline, run=first.run, key=key, text=text, evidence=evidence)

    # The database's side

    def _shown(self, pipeline: Pipeline[Any, Any], batch: Sequence[History]) -> _Shown:
        ids = [history.events[0].run for history in batch]
        entries = plain(pipeline.Input, self.using).filter(id__in=ids).values_list("id", "epoch", "failed_at")
        outputs = plain(pipeline.Output, self.using).filter(run_id__in=ids).values_list("run_id", flat=True)
        asked: set[int] = set()
        if pipeline.kind == "workflow":
            messages = plain(pipeline.models["Message"], self.using).filter(run_id__in=ids, name=CANCEL)
            asked = set(messages.values_list("run_id", flat=True))
        in_queue = {id: (epoch, failed is not None) for id, epoch, failed in entries}
        return _Shown(in_queue, set(outputs), asked, self._open_steps(batch))

    def _open_steps(self, batch: Sequence[History]) -> set[tuple[str, int]]:
        delivered: dict[str, set[int]] = defaultdict(set)
        for history in batch:
            for end in history.ends:
                if end.facts.get("step"):
                    caller, step = end.facts["step"]
                    delivered[caller].add(step)
        found: set[tuple[str, int]] = set()
        for caller, steps in delivered.items():
            workflow = registry.get(caller)
            if workflow is not None:
                rows = plain(workflow.models["Step"], self.using).filter(id__in=steps, done_at=None, cancelled_at=None)
                found |= {(caller, step) for step in rows.values_list("id", flat=True)}
        return found


def _output_seen(history: History, run: int, shown: _Shown) -> bool:
    """Whether a run's output is there, or was, until somebody deleted it."""
    return run in shown.outputs or any(event.kind == "output_leaving" for event in history.events)


def _state(history: History, run: int, shown: _Shown) -> str:
    """What became of an entry that was enqueued."""
    if run in shown.entries:
        return "failed" if shown.entries[run][1] else "waiting"
    if _output_seen(history, run, shown):
        return "outputs"
    removed = any(event.kind == "leaving" for event in history.events)
    ended = any(end.facts.get("outcome") in ("cancelled", "failed") for end in history.ends)
    return "deleted" if removed or ended or run in shown.asked else "lost"
