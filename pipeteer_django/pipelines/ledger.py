"""What a run does, held against what is written down about it, and what is to be written down next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pipeteer_django.exceptions import ImpureWorkflow
from pipeteer_django.pipelines.difference import OTHER_CODE, call_site, difference, shown
from pipeteer_django.pipelines.outcome import Consumed, NewStep
from pipeteer_django.pipelines.record import (
    KNOWN,
    PATCH,
    TIMER,
    Event,
    Fired,
    Record,
    RecordedMessage,
    RecordedStep,
    due_of,
)


class Ledger:
    """The steps and events of one run: recorded ones are compared, new ones are noted."""

    def __init__(self, pipeline: str, record: Record) -> None:
        self._pipeline = pipeline
        self._steps = record.steps
        self.past = record.consumed()
        """The events to be fed again, in their order."""
        self.history = len(self.past)
        """How many of these are still to come."""
        self.replaying = bool(record.steps or self.past or record.slept)
        self.called = 0
        """How many steps the code has made."""
        self.patches = {step.param for step in self._steps if step.pipeline == PATCH}
        """The changes of its code that the run knew of."""
        self.defect: Exception | None = None
        """Why the run cannot go on."""
        self.ids: dict[int, int] = {}
        """The rows of open steps, by index."""
        self.new: dict[int, NewStep] = {}
        self.consumed: list[Consumed] = []
        self.dropped: list[int] = []
        """Rows of steps that the code cancelled."""
        self._order = 0
        for position, step in enumerate(self._steps):
            if step.index != position:
                self.impure(f"step {position} is missing from its record", "Restart the run.")
                break

    # Steps

    def step(self, name: str, param: Any, **new: Any) -> int:
        """Number a step, and hold it against the record, or note it as new."""
        recorded = self.next
        index, self.called = self.called, self.called + 1
        if recorded is not None:
            if what := difference(recorded, name, param):
                self.impure(f"{what}{call_site()}")
            if recorded.order != KNOWN:
                self.ids[index] = recorded.id
        elif self.history:
            self.impure(
                f"its record ends with step {len(self._steps) - 1}, and before all of that had happened again the code "
                f"made another, {shown(name, param)}{call_site()}"
            )
        else:
            self.new[index] = NewStep(index, name, param, self._order, **new)
        return index

    @property
    def next(self) -> RecordedStep | None:
        """What the record says the code does next; None where it says nothing.

        That it knew of a change is passed over: code that no longer asks is no other code.
        """
        while self.called < len(self._steps) and self._steps[self.called].pipeline == PATCH:
            self.called += 1
        return self._steps[self.called] if self.called < len(self._steps) else None

    def known(self, kind: str, param: Any, make: Callable[[], Any]) -> Any:
        """The result of a step that is known at once: made now, or at the time that the record tells of."""
        recorded = self.next
        result = make() if recorded is None else recorded.result
        self.step(kind, param, result=result, known=True)
        return result

    def due(self, moment: datetime) -> datetime:
        """When a timer made now fires. One that has begun keeps its time, whatever the code now says."""
        recorded = self.next
        return due_of(recorded) if recorded is not None and recorded.pipeline == TIMER else moment

    def drop(self, index: int) -> None:
        """Nobody waits for this step any more."""
        if index in self.new:
            self.new[index] = replace(self.new[index], cancelled=True)
        elif index in self.ids:
            step_id = self.ids.pop(index)
            if not (index < len(self._steps) and self._steps[index].cancelled_at):
                self.dropped.append(step_id)

    # Events

    def consume(self, event: Event | Fired) -> None:
        """The run takes an event: the next of its record, or a new one."""
        if event.order is not None:
            self.history -= 1
            self._order = event.order
            return
        self._order += 1
        fired_at = event.at if isinstance(event, Fired) else None
        self.consumed.append(Consumed(event.id, self._order, isinstance(event, RecordedMessage), fired_at))

    def catch_up(self) -> None:
        """If all that was consumed before has been fed: the code is where it was, or it is not the same code."""
        if not self.replaying or self.history:
            return
        self.replaying = False
        missing = self.next
        if missing is not None:
            recorded = shown(missing.pipeline, missing.param)
            self.impure(f"step {missing.index} was recorded as {recorded}, and the code no longer makes this call")
        for index in self.ids:
            self._check_open(self._steps[index])
        self._steps = []  # from now on every step is new

    def _check_open(self, step: RecordedStep) -> None:
        # A rerun or correction may have led the code another way, to where it wants what the old way had cancelled.
        if step.cancelled_at is not None and step.done_at is None and step.pipeline != TIMER:
            self.impure(
                f"step {step.index}, {shown(step.pipeline, step.param)}, was cancelled, and the code now waits for it",
                f"For it to be called again, rerun it from step {step.index} or an earlier one.",
            )

    def written(self, ids: Mapping[int, int]) -> None:
        """What was new is written down, steps under these ids by index."""
        self.ids |= {index: id for index, id in ids.items() if index in self.new and not self._over(index)}
        self.new.clear()
        self.consumed.clear()
        self.dropped.clear()

    def _over(self, index: int) -> bool:
        return self.new[index].known or self.new[index].cancelled

    def impure(self, difference: str, remedy: str = OTHER_CODE) -> None:
        """Note that the code does not repeat its record; the first difference is the one that counts."""
        if self.defect is None:
            self.defect = ImpureWorkflow(f"{self._pipeline} does not repeat its record: {difference}. {remedy}")
