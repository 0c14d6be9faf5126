"""What a run is a run of, and what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeteer_django.exceptions import StepFailed
from pipeteer_django.pipelines.loop import DurableFuture, DurableLoop, DurableTimer
from pipeteer_django.pipelines.workflowcontext import WorkflowContext

if TYPE_CHECKING:
    from pipeteer_django.pipelines.valuetype import ValueType


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a run is a run of."""

    function: Callable[[Any, WorkflowContext], Coroutine[Any, Any, Any]]
    value: Any
    pipeline: str
    """The workflow's id."""
    key: str
    run_id: int
    input: ValueType
    output: ValueType
    messages: Mapping[str, ValueType] = field(default_factory=dict)
    """Types of the messages that it says it receives."""
    started_at: datetime | None = None


@dataclass(slots=True)
class OpenCall:
    """A call under way, and how its result is read."""

    read: Callable[[Any], Any]
    future: CallFuture
    deadline: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class OpenTimer:
    """A timer, and when it fires by the database's clock."""

    timer: DurableTimer
    due: datetime


class CallFuture(DurableFuture[Any]):
    """The result of a call. Cancelling it cancels the call."""

    __slots__ = ("on_cancel",)

    def __init__(self, loop: DurableLoop) -> None:
        super().__init__(loop=loop)
        self.on_cancel: Callable[[], None] | None = None

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the call, too."""
        cancelled = super().cancel(msg)
        if cancelled and self.on_cancel is not None:
            self.on_cancel()
        return cancelled


class BeginAgain(BaseException):
    """Raised by `ctx.continue_as_new`."""


def step_failed(pipeline: str, /, type: str, message: str, traceback: str = "") -> StepFailed:
    """The error of a step, as it is recorded."""
    return StepFailed(pipeline, type, message, traceback)
