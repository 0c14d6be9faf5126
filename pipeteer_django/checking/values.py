"""Whether what is stored still fits the types that the code has today."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeteer_django.checking.entries import Entry
from pipeteer_django.checking.findings import Finding, Kind
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import CANCEL, ENGINES, RecordedMessage, RecordedStep
from pipeteer_django.pipelines.registry import registry


def of_entry(entry: Entry) -> Iterator[Finding]:
    """The argument of an entry, and whether this code knows who waits for it."""
    claim = entry.claim
    if text := _misfit(claim.pipeline.input.from_stored, claim.value):
        yield _of(entry, "value", text)
    if claim.caller and registry.get(claim.caller) is None:
        text = f"its caller is {claim.caller}, which this code does not know: workers will leave it alone."
        yield _of(entry, "unknown", text)


def of_outputs(pipeline: Pipeline[Any, Any], rows: Iterable[tuple[Any, ...]]) -> Iterator[Finding]:
    """Results (id, key, value) that nobody has consumed yet."""
    for id, key, value in rows:
        if text := _misfit(pipeline.output.from_stored, value):
            yield Finding(kind="value", text=text, pipeline=pipeline.id, key=key, table="Output", id=id)


def of_record(entry: Entry) -> Iterator[Finding]:
    """The results and messages that a run takes again when it is replayed, or is going to take."""
    unknown: set[str] = set()
    for step in entry.claim.record.steps:
        if step.pipeline in ENGINES or step.pipeline in unknown:
            continue
        if registry.get(step.pipeline) is None:
            unknown.add(step.pipeline)
            text = f"it called {step.pipeline}, which this code does not know."
            yield _of(entry, "unknown", text, step=step.index)
        elif text := _of_step(step):
            yield _of(entry, "value", f"the result of {step.pipeline}: {text}", step=step.index)
    for message in entry.claim.record.messages:
        yield from _of_message(entry, message)


def _of_step(step: RecordedStep) -> str:
    if step.done_at is None or step.error is not None or step.cancelled_at is not None:
        return ""
    return _misfit(registry.find(step.pipeline).output.from_json, step.result)


def _of_message(entry: Entry, message: RecordedMessage) -> Iterator[Finding]:
    declared = entry.claim.pipeline.messages  # type: ignore[attr-defined]  # only workflows have records
    if message.name == CANCEL or not declared:
        return
    if message.name in declared:
        if text := _misfit(declared[message.name].from_json, message.value):
            yield _of(entry, "value", f"message {message.id}, {message.name!r}: {text}")
    elif message.order is None:
        yield _of(entry, "unknown", f"message {message.id} is named {message.name!r}, which it does not receive.")


def _of(entry: Entry, kind: Kind, text: str, step: int | None = None) -> Finding:
    claim = entry.claim
    return Finding(
        kind=kind, text=text, pipeline=claim.pipeline.id, key=claim.key, table="Input", id=claim.id, step=step,
        failed=entry.failed,
    )  # fmt: skip


def _misfit(decode: Callable[[Any], Any], stored: Any) -> str:
    try:
        decode(stored)
    except Exception as error:  # a type of the user's may raise anything, and the others are to be looked at, too
        return str(error) or type(error).__name__
    return ""
