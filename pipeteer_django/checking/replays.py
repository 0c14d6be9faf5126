"""Replays runs over their records with the code of today, to see whether it still does what they did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pipeteer_django.checking.entries import Entry, entry, moved
from pipeteer_django.checking.findings import Finding
from pipeteer_django.checking.patience import within
from pipeteer_django.exceptions import InvalidValue
from pipeteer_django.pipelines.calls import Spec
from pipeteer_django.pipelines.difference import OTHER_CODE
from pipeteer_django.pipelines.outcome import Outcome, Parked
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import Record
from pipeteer_django.pipelines.replay import Run
from pipeteer_django.worker.attempts import spec_of

PATIENCE = 10.0
"""Seconds for one replay, and some more for each step."""
PER_STEP = 0.001
LOOKS = 10
"""How often a run that moves on is looked at."""
MAX_ENDLESS = 3
"""After so many replays without an end the other runs of the workflow are left out."""


class Replays:
    """The replays of one workflow."""

    def __init__(self, workflow: Pipeline[Any, Any], using: str) -> None:
        self._workflow, self._using = workflow, using
        self._endless = 0
        self.count = 0
        """How many runs were replayed."""

    def differences(self, batch: Sequence[Entry]) -> Iterator[Finding]:
        """What these runs, whose records are loaded, would stumble over. One that moves on is looked at again."""
        # Rows, steps and messages are read one after the other. If the row is still at its epoch they belong together.
        torn = moved(self._workflow, self._using, batch)
        found = [(each, text) for each in batch if each.claim.id not in torn and (text := self._difference(each))]
        gone_on = moved(self._workflow, self._using, [each for each, _ in found])
        for each, text in found:
            if each.claim.id not in gone_on:
                yield _finding(each, text)
        for id in sorted(torn | gone_on):
            yield from self._again(id)

    def _again(self, id: int) -> Iterator[Finding]:
        last: Finding | None = None
        for _ in range(LOOKS):
            now = entry(self._workflow, self._using, id)
            if now is None:
                return
            if moved(self._workflow, self._using, [now]):
                last = last or replace(_finding(now, "it moved on whenever it was looked at."), warning=True)
                continue
            text = self._difference(now)
            if text is None:
                return
            last = _finding(now, text)
            if not moved(self._workflow, self._using, [now]):
                break
        if last is not None:
            yield last

    def _difference(self, each: Entry) -> str | None:
        record = each.claim.record
        if not (record.steps or record.consumed()):
            return None  # whatever the code does now is what it does first
        if self._endless >= MAX_ENDLESS:
            return "it was not replayed, because other runs of this workflow came to no end."
        try:
            spec = spec_of(each.claim)
        except InvalidValue:
            return None  # told by `values`
        self.count += 1
        try:
            outcome, raised = within(PATIENCE + PER_STEP * len(record.steps), lambda: rehearse(spec, record))
        except TimeoutError as error:
            self._endless += 1
            return f"its replay was stopped: {error}."
        except Exception as error:
            return f"its replay raised {type(error).__name__}: {error}"
        return _told(self._workflow.id, outcome, raised)


def rehearse(spec: Spec, record: Record) -> tuple[Outcome, BaseException | None]:
    """Take a run to where its record ends, no further: what it comes to there, and what the function raised."""
    raised: list[BaseException] = []

    async def noting(value: Any, ctx: Any) -> Any:
        try:
            return await spec.function(value, ctx)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            raised.append(error)
            raise

    run = Run(replace(spec, function=noting), record)
    try:
        run.start()
        return run.outcome(), raised[0] if raised else None
    finally:
        run.close()


def _told(workflow: str, outcome: Outcome, raised: BaseException | None) -> str | None:
    """A defect in words. Every other outcome is how the run goes on, which is no difference."""
    if not isinstance(outcome, Parked) or isinstance(outcome.failure.error, InvalidValue):
        return None  # (a stored result that does not fit is told by `values`)
    text = outcome.failure.message.removeprefix(f"{workflow} does not repeat its record: ")
    text = text.removesuffix(f" {OTHER_CODE}")
    return text if raised is None else f"{text} It raised {type(raised).__name__}: {raised}"


def _finding(each: Entry, text: str) -> Finding:
    claim = each.claim
    return Finding(
        kind="replay", text=text, pipeline=claim.pipeline.id, key=claim.key, table="Input", id=claim.id,
        failed=each.failed,
    )  # fmt: skip
