"""New steps: their rows, and the entries of those that call another pipeline. All of a turn together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeteer_django.pipelines.outcome import Call, Failure, NewStep
from pipeteer_django.pipelines.record import KNOWN
from pipeteer_django.queues.claim import Claim, lease, plain
from pipeteer_django.queues.database import from_now
from pipeteer_django.queues.deliver import step_model
from pipeteer_django.queues.rows import pipeline
from pipeteer_django.queues.statements import insert_rows

_STEP = (
    "run_id", "branch", "index", "pipeline", "param", "after", "result", "error", "done_at", "cancelled_at", "order",
    "created_at",
)  # fmt: skip
_CHILD = (
    "key", "value", "output", "priority", "available_at", "caller", "step_id", "epoch", "reserved_by", "attempt",
    "crashes", "suspended", "deliveries", "holder", "branch", "started_at", "error", "max_attempts", "progress_text",
    "created_at",
)  # fmt: skip

Place = tuple[str, int]
"""A workflow's id and a run's."""


@dataclass(frozen=True, slots=True)
class Birth:
    """A new step of the run `run_id` of workflow `workflow`."""

    workflow: str
    run_id: int
    branch: int
    step: NewStep
    error: dict[str, str] | None = None
    ended: bool = False
    """It came to its end when it was made: `error` says to which."""

    @property
    def calls(self) -> Call | None:
        """What to call, if it still is to be called."""
        return None if self.ended or self.step.cancelled else self.step.call


@dataclass(slots=True)
class Born:
    """What came of new steps."""

    ids: dict[Place, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    """The rows of a run's new steps, by index."""
    ready: set[tuple[str, int]] = field(default_factory=set)
    """(pipeline id, priority) where entries became claimable."""
    soonest: float = math.inf
    """Seconds until the first of the others is due."""
    claims: list[Claim] = field(default_factory=list)
    """Entries that were born claimed."""


def without_duplicates(using: str, births: Sequence[Birth]) -> list[Birth]:
    """The same, where calls whose key their queue already holds have come to that end."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for birth in births:
        if birth.calls and birth.calls.key is not None:
            wanted[birth.step.pipeline].add(birth.calls.key)
    taken = {
        (id, key)
        for id, keys in wanted.items()
        for key in plain(pipeline(id).Input, using).filter(key__in=keys).values_list("key", flat=True)
    }
    return [_unless_taken(birth, taken) for birth in births] if wanted else list(births)


def _unless_taken(birth: Birth, taken: set[tuple[str, str]]) -> Birth:
    call = birth.calls
    if call is None or call.key is None:
        return birth
    name = (birth.step.pipeline, call.key)
    if name not in taken:
        taken.add(name)
        return birth
    text = f"{birth.step.pipeline} already has an entry {call.key!r}"
    error = Failure("DuplicateKey", text, "").as_json()
    return Birth(birth.workflow, birth.run_id, birth.branch, birth.step, error, ended=True)


@dataclass(slots=True)
class Cradle:
    """Who claims new entries in the moment of their birth, while nothing else waits to be claimed."""

    worker: str
    slots: int
    threads: int
    serves: frozenset[str]
    on_hold: Collection[str]

    def takes(self, call: Call) -> bool:
        """Whether it has a place for this one, which is then taken."""
        id, threaded = call.pipeline.id, call.pipeline.threaded
        if call.delay > 0 or id not in self.serves or id in self.on_hold or not self.slots:
            return False
        if threaded and not self.threads:
            return False
        self.slots -= 1
        self.threads -= threaded
        return True


def insert_steps(using: str, births: Iterable[Birth], now: datetime, cradle: Cradle | None = None) -> Born:
    """Insert the steps and the entries that they call, those claimed for which the cradle has a place."""
    born = Born()
    by_workflow: dict[str, list[Birth]] = defaultdict(list)
    for birth in births:
        by_workflow[birth.workflow].append(birth)
    for workflow, group in by_workflow.items():
        rows = [_step_row(birth, now) for birth in group]
        model = step_model(pipeline(workflow))
        for id, run_id, index in insert_rows(using, model, _STEP, rows, returning=("id", "run_id", "index")):
            born.ids[workflow, run_id][index] = id
        _insert_children(using, [birth for birth in group if birth.calls], born, now, cradle)
    return born


def _step_row(birth: Birth, now: datetime) -> tuple[Any, ...]:
    step = birth.step
    done_at = now if step.known or birth.ended else None
    cancelled_at = now if step.cancelled else None
    place = (birth.run_id, birth.branch, step.index, step.pipeline, step.param, step.after)
    return *place, step.result, birth.error, done_at, cancelled_at, KNOWN if step.known else None, now


def _insert_children(using: str, births: Iterable[Birth], born: Born, now: datetime, cradle: Cradle | None) -> None:
    by_pipeline: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    claims: dict[int, Claim] = {}
    for birth in births:
        step_id = born.ids[birth.workflow, birth.run_id][birth.step.index]
        claim = _child(birth, step_id, now)
        if cradle is not None and birth.calls and cradle.takes(birth.calls):
            claim.epoch = claim.attempt = 1
            claims[step_id] = claim
        else:
            _note_due(birth, born)
        worker = cradle.worker if cradle is not None and step_id in claims else ""
        by_pipeline[birth.step.pipeline].append(_row(claim, birth, worker))
    for id, rows in by_pipeline.items():
        returning = ("id", "step_id") if claims else ()
        for child_id, step_id in insert_rows(using, pipeline(id).Input, _CHILD, rows, returning=returning):
            if step_id in claims:
                claims[step_id].id = child_id
    born.claims += claims.values()


def _note_due(birth: Birth, born: Born) -> None:
    call = birth.calls
    if call is not None and call.delay > 0:
        born.soonest = min(born.soonest, call.delay)
    elif call is not None:
        born.ready.add((birth.step.pipeline, call.priority))


def _child(birth: Birth, step_id: int, now: datetime) -> Claim:
    """The entry of a call, as it is before anybody has claimed it."""
    call = birth.calls
    assert call is not None
    key = f"{birth.workflow}:{birth.run_id}:{birth.branch}:{birth.step.index}" if call.key is None else call.key
    return Claim(
        pipeline=call.pipeline, id=0, key=key, value=call.pipeline.input.to_stored(call.value), output="output",
        priority=call.priority, caller=birth.workflow, step_id=step_id, epoch=0, attempt=0, crashes=0, deliveries=0,
        branch=0, started_at=now, created_at=now, max_attempts=call.max_attempts, now=now,
    )  # fmt: skip


def _row(claim: Claim, birth: Birth, worker: str) -> tuple[Any, ...]:
    assert birth.calls is not None
    delay = lease(claim.pipeline).total_seconds() if worker else birth.calls.delay
    due = from_now(claim.now, delay) if delay > 0 else claim.now
    who = (claim.key, claim.value, claim.output, claim.priority, due, claim.caller, claim.step_id)
    state = (claim.epoch, worker, claim.attempt, 0, False, 0, "", 0, claim.started_at if worker else None)
    return *who, *state, "", claim.max_attempts, "", claim.created_at
