"""Workflows: async functions that call other pipelines and survive anything in between."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, ClassVar

from pipeteer_django.exceptions import DefinitionError
from pipeteer_django.pipelines.pipeline import A, B, Pipeline
from pipeteer_django.pipelines.registry import place
from pipeteer_django.pipelines.replay import WorkflowContext


class Workflow(Pipeline[A, B]):
    """An `async def` whose calls are recorded as Steps, so that it can be replayed up to where it was."""

    kind: ClassVar[str] = "workflow"

    def __init__(
        self, function: Callable[..., Any], *, id: str | None = None, reserve: timedelta | None = None
    ) -> None:
        if not inspect.iscoroutinefunction(function):
            raise DefinitionError(
                f"{place(function)} is a sync function, and a workflow must be able to wait: write `async def`. "
                "Work that blocks belongs in an activity, which may be sync."
            )
        super().__init__(function, id=id, reserve=reserve)

    @property
    def Step(self) -> Any:
        """The model of the recorded calls."""
        return self._model("Step")

    @property
    def Message(self) -> Any:
        """The model of messages to running workflows."""
        return self._model("Message")

    def restart(self, key: str) -> bool:
        """Run an entry again from its beginning; what it had outstanding is cancelled. False where there is none."""
        return bool(self.Input.objects.filter(key=key).restart())

    def step(self, key: str) -> int | None:
        """The number of the newest step of the run in the queue under `key`, or None."""
        number: int | None = self.Input.objects.step(key)
        return number


def workflow(
    *, id: str | None = None, reserve: timedelta | None = None
) -> Callable[[Callable[[A, WorkflowContext], Coroutine[Any, Any, B]]], Workflow[A, B]]:
    """Make an `async def f(value, ctx: WorkflowContext)` a workflow. Raises DefinitionError for a sync function."""

    def decorate(function: Callable[[A, WorkflowContext], Coroutine[Any, Any, B]]) -> Workflow[A, B]:
        return Workflow(function, id=id, reserve=reserve)

    return decorate
