"""The attempts under way in one worker: starting them, noticing their end, giving them up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeteer_django.pipelines.outcome import Failure, Parked
from pipeteer_django.queues.claim import Claim, lease
from pipeteer_django.worker.attempts import Attempt, Ended, refuse, run_on_loop, run_on_thread

logger = logging.getLogger("pipeteer_django.worker")

Place = tuple[str, int]
"""Pipeline id and run id."""


@dataclass(slots=True, eq=False)
class Running:
    """An attempt, since when it runs, and the task that waits for it."""

    attempt: Attempt
    place: Place
    """Where its row is."""
    proven_at: float
    """When it will have survived one lease: until then it may be what kills the process."""
    task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, attempt: Attempt) -> Running:
        """Begin now."""
        claim = attempt.claim
        proven_at = time.monotonic() + lease(claim.pipeline).total_seconds()
        return cls(attempt, (claim.pipeline.id, claim.id), proven_at)


class Crew:
    """Runs up to `size` attempts, up to `threads` of them on threads.

    `workflow` runs a claimed workflow; `ended` is called with each claim and how it ended; both on the loop's thread.
    """

    def __init__(
        self,
        size: int,
        threads: int,
        using: str,
        app: Any,
        workflow: Callable[[Claim], Ended],
        ended: Callable[[Claim, Ended], None],
    ) -> None:
        self._size, self._using, self._app, self._workflow, self._ended = size, using, app, workflow, ended
        self._free_threads = self._all_threads = threads
        self._stuck: set[int] = set()
        """The attempts, by identity, that are past their timeout and still hold a thread."""
        self._running: dict[Place, Running] = {}
        self._suspects: list[Running] = []
        """Those whose last attempt may have killed a process."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pipeteer-body")
        self.left_behind = False
        """Whether there are threads that nobody can stop."""

    def __len__(self) -> int:
        return len(self._running)

    @property
    def alone(self) -> bool:
        """Nothing runs that an entry which kills the process would take with it."""
        now = time.monotonic()
        return not any(running.proven_at > now for running in self._running.values())

    @property
    def room(self) -> int:
        """How many more it can run; none beside a suspect."""
        now = time.monotonic()
        self._suspects = [running for running in self._suspects if running.proven_at > now and self._runs(running)]
        return 0 if self._suspects else max(0, self._size - len(self._running))

    @property
    def thread_room(self) -> int:
        """How many of these may need a thread; a body that never ends keeps its own for good."""
        return self._free_threads

    @property
    def all_stuck(self) -> bool:
        """Whether every thread is held by a body that is past its timeout."""
        return len(self._stuck) >= self._all_threads

    def _runs(self, running: Running) -> bool:
        return self._running.get(running.place) is running

    # Starting and ending

    def start(self, claim: Claim) -> None:
        """Run a claim. It ends in a later pass of the loop."""
        loop = asyncio.get_running_loop()
        running = Running.of(Attempt(claim, self._app, self._using))
        if running.place in self._running:
            # Its lease ran out while it still ran here (the database was away for long). It is ours again: go on.
            self._running[running.place].attempt.claim = claim
            return
        self._running[running.place] = running
        if claim.crashes:
            self._suspects.append(running)
        refused = refuse(claim)
        if refused is not None:
            self._end(running, refused)
        elif claim.pipeline.kind == "workflow":
            # A callback of its own: a workflow's loop cannot be entered from within a task.
            loop.call_soon(self._replay, running)
        else:
            self._free_threads -= claim.pipeline.threaded
            running.task = loop.create_task(self._run(running))

    def _replay(self, running: Running) -> None:
        claim = running.attempt.claim
        outcome: Ended
        try:
            outcome = self._workflow(claim)
        except Exception as error:
            logger.exception("Running %s %r failed outside its code.", claim.pipeline.id, claim.key)
            outcome = Parked(Failure.of(error))
        self._end(running, outcome)

    async def _run(self, running: Running) -> None:
        attempt = running.attempt
        try:
            self._end(running, await (self._on_thread if attempt.activity.threaded else run_on_loop)(attempt))
        except Exception as error:
            logger.exception("Running %s %r failed outside its body.", attempt.activity.id, attempt.claim.key)
            self._end(running, _after(attempt, error))

    async def _on_thread(self, attempt: Attempt) -> Ended:
        body = asyncio.get_running_loop().run_in_executor(self._threads, run_on_thread, attempt)
        body.add_done_callback(lambda _: self._thread_ended(attempt))
        try:
            async with asyncio.timeout(attempt.activity.timeout):
                return await asyncio.shield(body)
        except TimeoutError as error:
            # The thread goes on, nobody can stop it; what it returns is discarded.
            attempt.abandoned = True
            self.left_behind = True
            self._stuck.add(id(attempt))
            return attempt.after_error(error)

    def _thread_ended(self, attempt: Attempt) -> None:
        self._free_threads += 1
        self._stuck.discard(id(attempt))

    def _end(self, running: Running, ended: Ended) -> None:
        if self._runs(running):
            del self._running[running.place]
            self._ended(running.attempt.claim, ended)

    # Giving up

    def abandon(self, id: str, epochs: Mapping[int, int]) -> None:
        """These runs, under these epochs, are somebody else's now."""
        for run_id, epoch in epochs.items():
            running = self._running.get((id, run_id))
            if running is None or running.attempt.claim.epoch != epoch:
                continue  # settled, perhaps claimed again, since the renewal looked
            if running.task is not None and running.attempt.activity.atomic:
                continue  # it may just have settled itself; if not, its own fence will say so
            logger.warning("%s %r: its lease was lost; another worker may have it.", id, running.attempt.claim.key)
            running.attempt.abandoned = True
            if running.task is not None and running.attempt.activity.is_async:
                running.task.cancel()

    def dismiss(self) -> list[Attempt]:
        """Stop waiting for whatever still runs, and return it."""
        left, self._running = list(self._running.values()), {}
        for running in left:
            running.attempt.abandoned = True
            if running.task is not None:
                running.task.cancel()
        self.left_behind = self.left_behind or any(_has_thread(running) for running in left)
        return [running.attempt for running in left]

    def close(self) -> None:
        """Let idle threads end."""
        self._threads.shutdown(wait=False)


def _after(attempt: Attempt, error: Exception) -> Ended:
    """What follows; a person's business where even that cannot be told, or the lease would be renewed for ever."""
    try:
        return attempt.after_error(error)
    except Exception as worse:
        return Parked(Failure.of(worse))


def _has_thread(running: Running) -> bool:
    """An async body may have one, too: `asyncio.to_thread` and `sync_to_async` start them."""
    return running.attempt.claim.pipeline.kind == "activity"
