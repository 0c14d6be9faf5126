"""A run as its page shows it: plain dataclasses that `tree.py` fills."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeteer_django.admin.run.state import State
from pipeteer_django.admin.words import Text
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import CANCEL


@dataclass(slots=True)
class Step:
    """One row of the timeline and of the table."""

    id: int
    workflow: str
    """Whose step it is."""
    run_id: int
    index: int
    pipeline: str
    kind: str
    """activity, workflow, task or multitask; timer, send, random or patch; unknown to this code."""
    child_id: int | None
    param: Text
    result: Text
    error: dict[str, str] | None
    created_at: datetime
    done_at: datetime | None
    cancelled_at: datetime | None
    order: int | None
    depth: int
    name: str
    """Unique on the page: the numbers of the steps on the way to it."""
    state: State = State.QUEUED
    note: str = ""
    attempt: int | None = None
    due: datetime | None = None
    live: bool = False
    """Its child's entry is in its queue."""
    children: list[Step] = field(default_factory=list)
    folded: str = ""
    """Why its children are not shown, where it has any."""

    @property
    def ended(self) -> datetime | None:
        """When its bar ends; None: it is open."""
        return self.done_at or self.cancelled_at


@dataclass(frozen=True, slots=True)
class Message:
    """A message in the run's inbox."""

    id: int
    name: str
    value: Text
    sent_at: datetime
    order: int | None

    @property
    def cancels(self) -> bool:
        """Whether it asks the run to end."""
        return self.name == CANCEL


@dataclass(frozen=True, slots=True)
class Caller:
    """The step that called this run."""

    workflow: str
    run_id: int
    index: int


@dataclass(slots=True)
class Run:
    """The run and what is shown of its record."""

    workflow: Pipeline[Any, Any]
    id: int
    now: datetime
    key: str = ""
    row: Any = None
    """Its Input while it is in its queue, else its Output, else None: it is gone."""
    live: bool = False
    state: State = State.GONE
    note: str = ""
    branch: int = 0
    """The present one."""
    shown_branch: int = 0
    value: Text | None = None
    result: Text | None = None
    error: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    caller: Caller | None = None
    steps: list[Step] = field(default_factory=list)
    """The steps of this page, children inside."""
    total: int = 0
    messages: list[Message] = field(default_factory=list)
    more_messages: bool = False
    branches: list[tuple[int, int]] = field(default_factory=list)
    """Older ones, newest first, with their numbers of steps."""
    more_branches: bool = False

    @property
    def is_present(self) -> bool:
        """Whether the branch shown is the one that counts."""
        return self.shown_branch == self.branch

    @property
    def cancelling(self) -> bool:
        """Whether it has been asked to end."""
        return self.live and self.is_present and any(message.cancels for message in self.messages)

    @property
    def live_queues(self) -> str:
        """The ids of the workflows whose steps are shown: a change of these, or below them, is one of the page."""
        return ",".join(sorted({self.workflow.id} | {step.pipeline for step in self.rows() if step.children}))

    def rows(self) -> Iterator[Step]:
        """All steps shown, each before its children."""
        yield from _flat(self.steps)


def _flat(steps: Iterable[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        yield from _flat(step.children)
