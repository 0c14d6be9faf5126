"""The handle of a run, and waiting for what becomes of it: by wake-up, with polling behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asgiref.sync import sync_to_async
from django.db import transaction

from pipeteer_django.conf import settings
from pipeteer_django.exceptions import NotInTransaction, RunFailed, RunGone
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import DatabaseNow
from pipeteer_django.wakeups import Waiter


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is, for people who wait for it."""

    state: str
    """ready, running, waiting, scheduled or failed, as the methods of its queue; finished; or gone without a result."""
    progress: float | None = None
    """What its workflow said last, from 0 to 1; and in words."""
    text: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("finished", "gone")


def state_of(entry: Any, now: datetime) -> str:
    """In which state of its queue an entry is at that time: the QuerySet's predicates, said of a row."""
    if entry.failed_at is not None:
        return "failed"
    if entry.available_at is not None and entry.available_at <= now:
        return "ready"
    if entry.reserved_by:
        return "running"
    return "waiting" if entry.suspended else "scheduled"


@dataclass(frozen=True, slots=True)
class Run:
    """One entry's life, from `enqueue` to its output. Cheap: it holds names, not rows."""

    pipeline: Pipeline[Any, Any]
    id: int
    key: str
    output: str
    using: str

    def __str__(self) -> str:
        return f"{self.pipeline.id} {self.key!r}"

    def result(self, *, timeout: float | None = None) -> Any:
        """Wait for the value, up to `timeout` seconds (None: for ever).

        Raises RunFailed if the run was given up, RunGone if it was deleted, TimeoutError, and NotInTransaction
        inside `atomic()`, where the run could never be seen to finish.
        """
        self._refuse_transaction()
        with Waiter([self.output]) as waiter:
            for pause in _pauses(timeout, self):
                if found := self.look():
                    return found[0]
                waiter.wait(pause)

    async def aresult(self, *, timeout: float | None = None) -> Any:
        """`result` for async code."""
        await sync_to_async(self._refuse_transaction)()
        async with Waiter([self.output]) as waiter:
            for pause in _pauses(timeout, self):
                if found := await sync_to_async(self.look)():
                    return found[0]
                await waiter.await_wake(pause)

    def state(self) -> RunState:
        """How far it is now, without its value."""
        entries = plain(self.pipeline.Input, self.using).annotate(database_now=DatabaseNow())
        entry = entries.defer("value", "error").filter(pk=self.id).first()
        if entry is not None:
            return RunState(state_of(entry, entry.database_now), entry.progress, entry.progress_text)
        finished = plain(self.pipeline.Output, self.using).filter(run_id=self.id).exists()
        return RunState("finished", 1.0) if finished else RunState("gone")

    def look(self) -> tuple[Any] | None:
        """Look once: the value in a tuple, or None while it is not there. Raises RunFailed, RunGone."""
        found = self._finished()
        if found is not None:
            return found
        entry = plain(self.pipeline.Input, self.using).filter(pk=self.id).values_list("failed_at", "error").first()
        if entry is None:
            # It may have finished between the two looks.
            found = self._finished()
            if found is None:
                raise RunGone(
                    f"{self}: run {self.id} left its queue without an output: it was deleted or consumed and pruned."
                )
            return found
        failed_at, error = entry
        if failed_at is not None:
            last = error.strip().rsplit("\n", 1)[-1]
            what_next = "let it go on with .retry(), or begin anew with .restart()"
            raise RunFailed(f"{self} was given up: {last} ({what_next})", error)
        return None

    def _finished(self) -> tuple[Any] | None:
        row = plain(self.pipeline.Output, self.using).filter(run_id=self.id).first()
        return None if row is None else (row.value,)

    def _refuse_transaction(self) -> None:
        connection = transaction.get_connection(self.using)
        # A TestCase's own transactions do not count: their writes are visible to code in the same test.
        if any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
            raise NotInTransaction(
                f"{self}: waiting for a result inside transaction.atomic() would never end, since workers see the "
                "entry only once the transaction has committed. Call result() after the block."
            )


def _pauses(timeout: float | None, run: Run) -> Iterator[float]:
    """How long to wait before each next look; TimeoutError once `timeout` seconds are over."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        yield settings().POLL_INTERVAL if left is None else max(0.0, min(settings().POLL_INTERVAL, left))
        if left is not None and left <= 0:
            raise TimeoutError(f"{run} has no result after {timeout} seconds. Does a worker run {run.pipeline.id}?")
