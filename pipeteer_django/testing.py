"""For tests: run everything that is there, in this process and thread, without worker, proxy or sleeping.

Works in a plain TestCase: turns become savepoints of the test's transaction. Workflows are replayed from their
beginning at every step, so that each test is also a test of their purity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connections

from pipeteer_django.exceptions import RunFailed, StepFailed
from pipeteer_django.pipelines.outcome import Failed, Failure, Parked, Retry
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.births import Place
from pipeteer_django.queues.claim import Claim
from pipeteer_django.queues.database import Strategy, durable, nested, shielded
from pipeteer_django.queues.rows import epochs
from pipeteer_django.queues.tickets import Settled, Ticket
from pipeteer_django.queues.turn import Appetite, take_turn, ticket_of
from pipeteer_django.worker.attempts import Attempt, Ended, refuse, run_on_thread, run_workflow
from pipeteer_django.worker.intake import Intake
from pipeteer_django.worker.reports import report_settled, report_started
from pipeteer_django.worker.service import alias, chosen

_ROUNDS = 100_000
_AT_ONCE = 100
_PATIENCE = 20
"""Failed attempts of one entry in one drain, after which its backoff is not skipped any more."""
_WAKES = 500
"""Claims of one entry in one drain whose time is moved without a limit."""


def drain(
    *pipelines: Pipeline[Any, Any], app: Any = None, skip_time: bool | timedelta = False, raise_failures: bool = True
) -> int:
    """Run these pipelines (all if none are named) until nothing is ready; returns how many attempts were made.

    What is delayed, backing off or waiting for a person stays as it is. `app` becomes `ctx.app`.

    `skip_time`: when nothing is ready, move the time of this drain on to whatever is due next: timers, delays,
    backoffs. A timedelta says how far at most, counted from now. Workflows see the moved time in `ctx.now()`; the
    clock of the database and of this process stays, and the next drain begins at that.

    `raise_failures`: when all is done and settled, raise the exception of the first entry that was given up and waits
    for a person, or else of the first that waits for its next attempt. A failure that a workflow catches is none.
    `False` leaves them in the rows.

    Raises AssertionError if it comes to no end.
    """
    served = list(pipelines) or chosen(())
    work = _Drain(served, alias(served), app, skip_time)
    work.run()
    if raise_failures:
        work.failures.raise_first()
    return work.attempts


@dataclass(frozen=True)
class Pipeteer:
    """What the pytest fixture `pipeteer` gives."""

    drain: Callable[..., int] = drain
    """`pipeteer_django.testing.drain`."""


class _Drain:
    """One drain: turn after turn, each followed by the attempts that it claimed."""

    def __init__(self, served: Sequence[Pipeline[Any, Any]], using: str, app: Any, skip_time: bool | timedelta) -> None:
        self.attempts = 0
        self.failures = _Failures(using)
        self._using, self._app = using, app
        self._nested = connections[using].in_atomic_block
        self._commit: Strategy = nested if self._nested else durable
        self._serves = frozenset(pipeline.id for pipeline in served)
        self._intake = Intake(served, using, "drain")
        self._tickets: list[Ticket] = []
        self._longest = timedelta.max if skip_time is True else skip_time or timedelta(0)
        self._ahead = timedelta(0)
        self._claimed: Counter[Place] = Counter()

    def run(self) -> None:
        """Go on until nothing is left to do."""
        for _ in range(_ROUNDS):
            if not self._turn() and not self._skip():
                return
        raise AssertionError(
            f"drain() made {_ROUNDS} turns without coming to an end. Does a workflow call itself for ever?"
        )

    def _turn(self) -> bool:
        """Settle, claim, run; whether there was anything to do."""
        self._intake.look()
        targets = self._intake.targets(_AT_ONCE)
        appetite = Appetite("drain", _AT_ONCE, _AT_ONCE, True, targets, self._serves, ahead=self._ahead)
        turn = take_turn(self._tickets, appetite, using=self._using, commit=self._commit)
        self._intake.learn(turn)
        self._settled(turn.settled)
        report_started(turn.claims)
        self._tickets = turn.settled.later
        for claim in turn.claims:
            self._attempt(claim)
        return bool(turn.claims or turn.settled.later or self._intake.hot)

    def _attempt(self, claim: Claim) -> None:
        self.attempts += 1
        self._claimed[claim.pipeline.id, claim.id] += 1
        ended = self._run(Attempt(claim, self._app, self._using))
        if isinstance(ended, Settled):
            self._settled(ended)
        elif ended is not None:
            self._tickets.append(ticket_of(claim, ended))

    def _run(self, attempt: Attempt) -> Ended:
        refused = refuse(attempt.claim)
        if refused is not None:
            return refused
        if attempt.claim.pipeline.kind == "workflow":
            return run_workflow(attempt.claim)
        with self._shield(attempt):
            return run_on_thread(attempt, self._commit)

    def _shield(self, attempt: Attempt) -> AbstractContextManager[None]:
        return shielded(self._using) if self._nested and not attempt.activity.atomic else nullcontext()

    def _settled(self, settled: Settled) -> None:
        report_settled(settled)
        self.failures.note(settled)

    def _skip(self) -> bool:
        """Move the time to what is due next; False if there is no such thing, or it is too far."""
        if not self._longest or self.failures.hopeless:
            return False
        self._intake.look()
        if self._intake.hot:
            return True  # a short backoff was over before it could be skipped
        if self._intake.next_due is None or self._ahead + self._intake.next_due > self._longest:
            return False
        self._refuse_eternity()
        self._ahead += self._intake.next_due
        self._intake.ahead = self._ahead
        return True

    def _refuse_eternity(self) -> None:
        (pipeline, id), count = self._claimed.most_common(1)[0] if self._claimed else (("", 0), 0)
        if self._longest == timedelta.max and count > _WAKES:
            raise AssertionError(
                f"drain(skip_time=True): run {id} of {pipeline} has gone on {count} times and still waits for "
                "something. If it never ends, say how far: skip_time=timedelta(days=3)."
            )


class _Failures:
    """The last failure of each entry, and which of them is to be raised."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._last: dict[Place, Ticket] = {}
        self._counts: Counter[Place] = Counter()
        self._originals: dict[str, BaseException] = {}
        """Exceptions by traceback, which is what is left of a child's in its parent."""

    @property
    def hopeless(self) -> bool:
        """Whether an entry failed so often that nobody would wait for it any longer."""
        return bool(self._counts) and max(self._counts.values()) >= _PATIENCE

    def note(self, settled: Settled) -> None:
        """Take note of what came of attempts."""
        for ticket in settled.done:
            failure = _failure(ticket)
            if failure is None:
                self._last.pop(ticket.place, None)
                continue
            self._last[ticket.place] = ticket
            self._counts[ticket.place] += isinstance(ticket.outcome, Retry)
            if failure.error is not None:
                self._originals[failure.traceback] = failure.error

    def raise_first(self) -> None:
        """Raise what the rows, as they are now, are left with: given up before those that wait for their next attempt.

        An entry that somebody has taken out of its queue or moved since is nobody's trouble.
        """
        left = [ticket for ticket in self._last.values() if self._stands(ticket)]
        left.sort(key=lambda ticket: isinstance(ticket.outcome, Retry))
        if not left:
            return
        error = self._error(left[0])
        error.add_note(f"pipeteer: {_told(left[0])}.")
        if left[1:]:
            error.add_note(f"pipeteer: {len(left) - 1} more failed: {'; '.join(map(_told, left[1:6]))}.")
        raise error

    def _stands(self, ticket: Ticket) -> bool:
        assert ticket.epoch is not None
        return epochs(self._using, ticket.pipeline, [ticket.id]).get(ticket.id) == ticket.epoch + 1

    def _error(self, ticket: Ticket) -> Exception:
        failure = _failure(ticket)
        assert failure is not None
        error = failure.error
        if isinstance(error, StepFailed) and error.__cause__ is None:
            error.__cause__ = self._originals.get(error.traceback)
        if isinstance(error, Exception):
            return error
        # A body's SystemExit or KeyboardInterrupt never means the test run.
        failed = RunFailed(f"{failure.type_name}: {failure.message}", failure.traceback)
        failed.__cause__ = error
        return failed


def _failure(ticket: Ticket) -> Failure | None:
    return ticket.outcome.failure if isinstance(ticket.outcome, (Retry, Failed, Parked)) else None


def _told(ticket: Ticket) -> str:
    key = ticket.claim.key if ticket.claim else ticket.id
    attempt = f", attempt {ticket.claim.attempt}" if ticket.claim else ""
    what = "waits for its next attempt" if isinstance(ticket.outcome, Retry) else "was given up"
    return f"{ticket.pipeline.id} {key!r}{attempt}, {what}"
