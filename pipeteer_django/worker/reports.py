"""What happened, as Django signals, and the log lines that are their first receivers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeteer_django.pipelines.outcome import (
    Cancelled,
    Continued,
    Done,
    Failed,
    Failure,
    Parked,
    Released,
    Retry,
    Waiting,
)
from pipeteer_django.queues.claim import Claim
from pipeteer_django.queues.tickets import Removed, Settled, Ticket
from pipeteer_django.signals import attempt_finished, attempt_started, entry_failed, lease_lost, run_finished

logger = logging.getLogger("pipeteer_django.worker")


@dataclass(slots=True)
class Counts:
    """What a worker did, for its last log line and for progress displays."""

    done: int = 0
    waiting: int = 0
    retry: int = 0
    failed: int = 0
    lost: int = 0
    replayed: int = 0

    def add(self, settled: Settled) -> None:
        """Count a committed turn."""
        for ticket in settled.done:
            name = _NAMES.get(type(ticket.outcome), "")
            if name in Counts.__slots__:
                setattr(self, name, getattr(self, name) + 1)
        self.lost += len(settled.lost)

    def __str__(self) -> str:
        text = f"{self.done} done, {self.waiting} suspensions, {self.retry} retries, {self.failed} given up"
        text += f", {self.replayed} steps replayed" if self.replayed else ""
        return text + (f", {self.lost} lost leases" if self.lost else "")


_NAMES = {
    Done: "done", Waiting: "waiting", Continued: "continued", Cancelled: "cancelled", Retry: "retry", Failed: "failed",
    Parked: "failed", Released: "released",
}  # fmt: skip


LONG = 10_000
"""A run is told about, once, when its record has so many steps."""


def report_started(claims: Iterable[Claim]) -> None:
    """Send `attempt_started` for each."""
    if not attempt_started.receivers:
        return
    for claim in claims:
        if attempt_started.has_listeners(claim.pipeline):
            attempt_started.send_robust(claim.pipeline, **_common(claim, claim.epoch))


def report_settled(settled: Settled) -> None:
    """Send what a committed turn did. Called outside transactions, on a thread where receivers may use the ORM."""
    for ticket in settled.done:
        _report(ticket, _NAMES.get(type(ticket.outcome), "removed"), settled)
    for ticket in settled.lost:
        if ticket.claim:
            report_lost(ticket.claim)
    for (workflow, run_id), steps in settled.born.items():
        if LONG in steps:
            logger.warning(
                "%s, run %d: its record has %d steps, slow to replay. Let it begin again with ctx.continue_as_new.",
                workflow, run_id, LONG,
            )  # fmt: skip


def report_lost(claim: Claim) -> None:
    """Send that an attempt ended when it was no longer ours to settle."""
    common = _common(claim, claim.epoch)
    attempt_finished.send_robust(claim.pipeline, outcome="lost", **common)
    lease_lost.send_robust(claim.pipeline, **common)


def _common(claim: Claim, epoch: int | None) -> dict[str, Any]:
    return {"run_id": claim.id, "key": claim.key, "attempt": claim.attempt, "epoch": epoch}


def _report(ticket: Ticket, outcome: str, settled: Settled) -> None:
    claim = ticket.claim
    if claim is None:
        return
    common = _common(claim, ticket.epoch)
    if attempt_finished.receivers and attempt_finished.has_listeners(claim.pipeline):
        step = None if ticket.step_id is None else (ticket.caller, ticket.step_id)
        attempt_finished.send_robust(
            claim.pipeline, outcome=outcome, next_epoch=_next_epoch(ticket, settled), step=step,
            claimed=not ticket.advanced_by, proved=settled.proved, **common,
        )  # fmt: skip
    failure = getattr(ticket.outcome, "failure", None)
    if failure is not None and outcome != "cancelled":
        gave_up = not isinstance(ticket.outcome, Retry)
        entry_failed.send_robust(
            claim.pipeline, failure=failure, error=failure.traceback, gave_up=gave_up, outcome=ticket.outcome, **common
        )
    if run_finished.receivers and outcome == "done" and not claim.caller:
        run_finished.send_robust(claim.pipeline, run_id=claim.id, key=claim.key, output=claim.output)


def _next_epoch(ticket: Ticket, settled: Settled) -> int | None:
    """The epoch of its row now that it was settled; None where it has left its queue."""
    gone = (Done, Cancelled, Removed, Failed) if ticket.caller else (Done, Cancelled, Removed)
    if ticket.epoch is None or isinstance(ticket.outcome, gone):
        return None
    return settled.epochs.get(ticket.place, ticket.epoch + 1)


# Log lines


def log_failures() -> None:
    """One line per failure: WARNING for an attempt that will be retried, ERROR with the traceback for giving up."""
    entry_failed.connect(_log_failed, dispatch_uid="pipeteer_django.log")
    lease_lost.connect(_log_lost, dispatch_uid="pipeteer_django.log")


def _log_failed(
    sender: Any, key: str, attempt: int, failure: Failure, gave_up: bool, outcome: Any, **kwargs: Any
) -> None:
    message = " ".join(failure.message.split())  # drivers write several lines
    what = f"{sender.id} {key!r}, attempt {attempt}: {failure.type_name}: {message}"
    if gave_up:
        logger.error("%s; given up\n%s", what, failure.traceback.rstrip())
    else:
        logger.warning("%s; next attempt in %.1f s", what, outcome.delay)


def _log_lost(sender: Any, key: str, attempt: int, **kwargs: Any) -> None:
    logger.warning(
        "%s %r, attempt %d: its lease was lost, so its result was refused; another worker has it or it is gone.",
        sender.id, key, attempt,
    )  # fmt: skip
