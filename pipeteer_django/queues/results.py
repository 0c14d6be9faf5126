"""The handle of a run, and waiting for what becomes of it: by wake-up, with polling behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asgiref.sync import sync_to_async
from django.db import transaction

from pipeteer_django.conf import settings
from pipeteer_django.exceptions import NotInTransaction, RunFailed, RunGone
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import plain
from pipeteer_django.wakeups import Waiter


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
            raise RunFailed(f"{self} was given up: {last} (let it run again with .retry())", error)
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
