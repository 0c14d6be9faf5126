"""What a worker knows of its queues between two turns: where there may be work, and when there will be."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from pipeteer_django.conf import settings
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.peek import Peeked, peek
from pipeteer_django.queues.turn import Target, Turn

_AT_ONCE = 100
"""Pipelines looked at by one statement."""


class Intake:
    """Targets are (pipeline, priority). A hot one had work when last seen. Used from the database thread."""

    def __init__(self, pipelines: Sequence[Pipeline[Any, Any]], using: str, worker: str) -> None:
        self._pipelines = {pipeline.id: pipeline for pipeline in pipelines}
        self._using, self._worker = using, worker
        self.priorities: dict[str, set[int]] = {id: {0} for id in self._pipelines}
        """Priorities met so far; a project uses a few of the 201."""
        self._hot: dict[tuple[str, int], None] = {}
        self._turns = 0
        self._others = False
        """Whether some runs are awake that are left to other workers for a moment."""
        self.next_look = 0.0
        """When to look again (monotonic clock): at the next due time, at the latest after the poll interval."""
        self.next_due: timedelta | None = None
        """How long after the last look more will be due."""
        self.ahead = timedelta(0)
        """How far a test has moved the time."""

    @property
    def hot(self) -> bool:
        """Whether a claim is likely to find something."""
        return bool(self._hot)

    @property
    def looked(self) -> bool:
        """Whether it has looked since it began, or forgot."""
        return self.next_look > 0

    def forget(self) -> None:
        """What was known may be wrong: look again."""
        self.next_look = 0.0

    def trust(self, ids: Iterable[str]) -> None:
        """Take hints for true: these pipelines have work, at some priority met before."""
        for id in ids:
            for priority in self.priorities[id]:
                self._hot[id, priority] = None

    def has_work(self, threads: int) -> bool:
        """Whether a claim is likely to find something that this worker has a thread for, where it needs one."""
        return any(threads or not self._pipelines[id].threaded for id, _ in self._hot)

    def is_hot(self, id: str) -> bool:
        """Whether a claim of this pipeline is likely to find something."""
        return any((id, priority) in self._hot for priority in self.priorities[id])

    def targets(self, threads: int) -> list[Target]:
        """Hot targets, highest priority first; within one priority another pipeline comes first each time."""
        self._turns += 1
        names = [target for target in self._hot if threads or not self._pipelines[target[0]].threaded]
        turned = self._turns % len(names) if names else 0
        order = sorted(names[turned:] + names[:turned], key=lambda target: -target[1])
        return [(self._pipelines[id], priority) for id, priority in order]

    def look(self) -> None:
        """Ask all queues in one statement where work is due, and when more will be."""
        later: list[timedelta] = []
        self._others = False
        ids = list(self._pipelines)
        for start in range(0, len(ids), _AT_ONCE):
            later += self._look_at(ids[start : start + _AT_ONCE])
        self.next_due = min(later, default=None)
        pause = settings().POLL_INTERVAL
        if self.next_due is not None:
            pause = min(pause, max(self.next_due.total_seconds(), 0.001))
        self.next_look = time.monotonic() + pause

    def glance(self, ids: Iterable[str]) -> None:
        """Ask only these queues, which were said to have work; when all are to be asked again stays as it is."""
        later = self._look_at(sorted(ids))
        if later:
            self.next_look = min(self.next_look, time.monotonic() + max(min(later).total_seconds(), 0.001))

    def _look_at(self, ids: Sequence[str]) -> list[timedelta]:
        seen = self._peek(ids)
        while seen.unknown:
            for id, priority in seen.unknown:
                self.priorities[id].add(priority)
            seen = self._peek(ids)
        self._others |= seen.others
        now = seen.now + self.ahead
        for target, due in seen.due.items():
            if due <= now:
                self._hot[target] = None
        return [due - now for due in seen.due.values() if due > now]

    def _peek(self, ids: Sequence[str]) -> Peeked:
        queues = {id: (self._pipelines[id], tuple(self.priorities[id])) for id in ids}
        return peek(self._using, self._worker, queues)

    def learn(self, turn: Turn) -> None:
        """Take note of what a committed turn found and made."""
        for id, priority in turn.settled.ready:
            if id in self._pipelines:
                self.priorities[id].add(priority)
                self._hot[id, priority] = None
        self.next_look = min(self.next_look, time.monotonic() + turn.settled.soonest)
        for target in turn.emptied:
            self._hot.pop(target, None)

    def exhausted(self) -> bool:
        """Whether nothing is ready, running anywhere, or between two attempts (delayed and waiting ones may be)."""
        self.look()
        under_way = {"failed_at": None, "available_at__isnull": False, "attempt__gt": 0}
        return not (self._hot or self._others) and not any(
            plain(pipeline.Input, self._using).filter(**under_way).exists() for pipeline in self._pipelines.values()
        )

    def remaining(self) -> int:
        """How many entries are in these queues and not given up."""
        return sum(
            plain(pipeline.Input, self._using).filter(failed_at=None).count() for pipeline in self._pipelines.values()
        )
