"""Workflows: async functions that call other pipelines and survive anything in between."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from functools import cache, cached_property
from typing import Any, ClassVar

from pipeteer_django.exceptions import DefinitionError, InvalidValue
from pipeteer_django.pipelines.pipeline import FROM_SETTINGS, A, B, Pipeline, Retention
from pipeteer_django.pipelines.registry import place
from pipeteer_django.pipelines.valuetype import ValueType
from pipeteer_django.pipelines.workflowcontext import WorkflowContext


@cache
def _anything() -> ValueType:
    # Not made when the module is imported: with its first type pydantic looks for plugins among all packages.
    return ValueType.of(Any)


class Workflow(Pipeline[A, B]):
    """An `async def` whose calls are recorded as Steps, so that it can be replayed up to where it was."""

    kind: ClassVar[str] = "workflow"

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        id: str | None = None,
        reserve: timedelta | None = None,
        retention: Retention = FROM_SETTINGS,
        messages: Mapping[str, Any] | None = None,
    ) -> None:
        if not inspect.iscoroutinefunction(function):
            raise DefinitionError(
                f"{place(function)} is a sync function, and a workflow must be able to wait: write `async def`. "
                "Work that blocks belongs in an activity, which may be sync."
            )
        self._messages = dict(messages or {})
        for name in self._messages:
            if not _is_name(name):
                raise DefinitionError(f"{place(function)}: {name!r} cannot be the name of a message.")
        super().__init__(function, id=id, reserve=reserve, retention=retention)

    # Messages

    @cached_property
    def messages(self) -> dict[str, ValueType]:
        """The types of the messages that the workflow declares; others may be of any type that JSON can hold."""
        return {name: ValueType.of(annotation) for name, annotation in self._messages.items()}

    def message_type(self, name: str) -> ValueType:
        """The type of a message; raises InvalidValue for a name that is none, or not among the declared ones."""
        if not _is_name(name):
            raise InvalidValue(f"{name!r} cannot be the name of a message: 1 to 200 characters, no colon in front.")
        if self.messages and name not in self.messages:
            raise InvalidValue(f"{self.id} receives no message {name!r}, but {', '.join(sorted(self.messages))}.")
        return self.messages.get(name) or _anything()

    def send(self, key: str, name: str, value: Any = None) -> None:
        """Send a message to the run in the queue under `key`, inside the caller's transaction.

        It is kept until the run receives it, in the order of sending, exactly once. Raises RunGone where there is no
        such run, InvalidValue if the value does not fit.
        """
        self.Input.objects.send(key, name, value)

    async def asend(self, key: str, name: str, value: Any = None) -> None:
        """`send` for async code."""
        await self.Input.objects.asend(key, name, value)

    # Models

    @property
    def Step(self) -> Any:
        """The model of the recorded calls."""
        return self._model("Step")

    @property
    def Message(self) -> Any:
        """The model of messages to running workflows."""
        return self._model("Message")

    # Runs

    def cancel(self, key: str) -> bool:
        """Raise CancelledError in the run, so that it can clean up and leave its queue. False where there is none.

        What it waits for is cancelled in turn. A run that was given up is deleted: it can clean up nothing.
        """
        return bool(self.Input.objects.cancel(key))

    async def acancel(self, key: str) -> bool:
        """`cancel` for async code."""
        return bool(await self.Input.objects.acancel(key))

    def restart(self, key: str) -> bool:
        """Run an entry again from its beginning; what it had outstanding is cancelled. False where there is none."""
        return bool(self.Input.objects.filter(key=key).restart())

    def rerun(self, key: str, *, from_step: int) -> Any:
        """Run a workflow again from one of its steps on, and return the handle of its run.

        What it had recorded before that step is kept; the step and all later ones are made anew, their children are
        cancelled, the old branch stays as history. For a run that is over, a new entry with a copy of its record is
        made. Raises RunGone where there is no run, InvalidValue where it has no such step.
        """
        return self.Input.objects.rerun(key, from_step)

    def correct(self, key: str, *, step: int, value: Any) -> None:
        """Give a step of the run in the queue another result, and let the run go on from there.

        A step that is still open is completed with the value, and its child taken out of its queue. For one that was
        done, everything that the run did after taking its result is undone, as by `rerun`. `value` is of the called
        pipeline's output type. Raises RunGone where there is no run, InvalidValue where it has no such step,
        EntryChanged where the step came to its end in this very moment.
        """
        self.Input.objects.correct(key, step, value)

    def step(self, key: str) -> int | None:
        """The number of the newest step of the run in the queue under `key`, or None."""
        number: int | None = self.Input.objects.step(key)
        return number


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 200 and not name.startswith(":")


def workflow(
    *,
    id: str | None = None,
    reserve: timedelta | None = None,
    retention: Retention = FROM_SETTINGS,
    messages: Mapping[str, Any] | None = None,
) -> Callable[[Callable[[A, WorkflowContext], Coroutine[Any, Any, B]]], Workflow[A, B]]:
    """Make an `async def f(value, ctx: WorkflowContext)` a workflow. Raises DefinitionError for a sync function.

    `messages`: the types of what it receives, by name: `messages={"approved": bool}`. With them, whoever sends is told
    of a wrong name or value, rather than the run. `retention`: how long history is kept (None: for ever).
    """

    def decorate(function: Callable[[A, WorkflowContext], Coroutine[Any, Any, B]]) -> Workflow[A, B]:
        return Workflow(function, id=id, reserve=reserve, retention=retention, messages=messages)

    return decorate
