"""The base of activity, workflow and task: an id, a function, its types, and the verbs of its queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, cast

from pipeteer_django.exceptions import DefinitionError, NotReady
from pipeteer_django.pipelines.registry import place, registry
from pipeteer_django.pipelines.signature import Signature, function_signature
from pipeteer_django.pipelines.valuetype import ValueType

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

A = TypeVar("A")
B = TypeVar("B")


class FromSettings(Enum):
    """What a keyword is that was not given, where None has a meaning of its own."""

    FROM_SETTINGS = "as in the settings"


FROM_SETTINGS: Final = FromSettings.FROM_SETTINGS
Retention = timedelta | FromSettings | None
"""How long outputs, steps and messages are kept; None: for ever."""


class Pipeline(Generic[A, B]):
    """A registered function with a queue of its own.

    `Input` and `Output` are Django models in the app that holds the function, attached while Django loads; the
    verbs below are those models' manager methods under a shorter name.
    """

    kind: ClassVar[str]
    runs_here: ClassVar[bool] = True
    """Whether workers run it (a task is completed by people)."""
    threaded: bool = False
    """Whether a worker needs a thread to run it."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        id: str | None = None,
        reserve: timedelta | None = None,
        retention: Retention = FROM_SETTINGS,
    ) -> None:
        self.function = function
        self.id = id or function.__name__
        _check_durations(function, reserve, retention)
        self.reserve = reserve
        self.retention = retention
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__module__ = function.__module__
        self.models: dict[str, Any] = {}
        """By their short names: Input, Output, and for a workflow Step and Message."""
        registry.add(self)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.id}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Simply call the function: no queue, no worker. For unit tests."""
        return self.function(*args, **kwargs)

    # Types

    @cached_property
    def signature(self) -> Signature:
        """The function's types, read when first asked for: its module is complete by then."""
        return function_signature(self.function)

    @property
    def input(self) -> ValueType:
        """The type of what goes in."""
        return self.signature.input

    @property
    def output(self) -> ValueType:
        """The type of what comes out."""
        return self.signature.output

    # Models

    def attach(self, **models: Any) -> None:
        """Called once, by the pass that generates the models."""
        self.models.update(models)

    @property
    def attached(self) -> bool:
        """Whether the tables exist as models."""
        return bool(self.models)

    def _model(self, name: str) -> Any:
        if name not in self.models:
            raise NotReady(
                f"{place(self.function)} has no {name} yet: Django has not loaded its models. "
                'Is "pipeteer_django" in INSTALLED_APPS, and has django.setup() run?'
            )
        return self.models[name]

    @property
    def Input(self) -> Any:
        """The model of the queue: one row is one entry."""
        return self._model("Input")

    @property
    def Output(self) -> Any:
        """The model of the results."""
        return self._model("Output")

    # Verbs

    def enqueue(
        self,
        value: A = cast(Any, None),
        *,
        key: str | None = None,
        output: str = "output",
        delay: timedelta | None = None,
        run_after: datetime | None = None,
        priority: int = 0,
        existing: bool = False,
    ) -> Any:
        """Put one value into the queue, inside the caller's transaction, and return the handle of its run.

        `key` names the entry (made up if absent) and is unique while the entry is there: another one raises
        DuplicateKey, or returns the run that is there if `existing`. `delay` counts from now by the database's
        clock. `priority`: -100..100, higher first. Raises InvalidValue if the value does not fit.
        """
        return self.Input.objects.enqueue(
            value, key=key, output=output, delay=delay, run_after=run_after, priority=priority, existing=existing
        )

    async def aenqueue(self, value: A = cast(Any, None), **options: Any) -> Any:
        """`enqueue` for async code."""
        return await self.Input.objects.aenqueue(value, **options)

    def enqueue_many(self, values: Iterable[A], *, output: str = "output", priority: int = 0) -> list[Any]:
        """Put thousands of values into the queue with a few statements; returns their runs, in order."""
        return cast("list[Any]", self.Input.objects.enqueue_many(values, output=output, priority=priority))

    def result(self, key: str, *, timeout: float | None = None, output: str | None = None) -> B:
        """Wait for the newest run of `key`. Raises RunFailed, RunGone, or TimeoutError after `timeout` seconds."""
        return cast(B, self.Input.objects.result(key, timeout=timeout, output=output))

    async def aresult(self, key: str, *, timeout: float | None = None, output: str | None = None) -> B:
        """`result` for async code."""
        return cast(B, await self.Input.objects.aresult(key, timeout=timeout, output=output))

    def consume(self, output: str = "output") -> AbstractContextManager[Any]:
        """`with quad.consume("my-output") as entry`: the oldest unconsumed Output row, this consumer's alone, or None.

        One transaction: it counts as consumed only if the block succeeds. Keep the block short.
        """
        return cast("AbstractContextManager[Any]", self.Output.everything.consume(output))

    def notify(self) -> None:
        """Wake this pipeline's workers now. Enqueueing does it by itself, on commit."""
        self.Input.objects.notify()

    def items(self) -> Any:
        """Everything that waits in the queue, as (key, value) pairs in order of arrival."""
        return self.Input.objects.items()

    def delete(self, key: str) -> bool:
        """Take an entry out of the queue; a caller gets StepFailed. False where there was none."""
        return bool(self.Input.objects.filter(key=key).delete()[0])


def _check_durations(function: Callable[..., Any], reserve: object, retention: object) -> None:
    if not (reserve is None or _is_duration(reserve)):
        raise DefinitionError(f"{place(function)}: reserve is a timedelta above 0, not {reserve!r}.")
    if not (retention is None or isinstance(retention, FromSettings) or _is_duration(retention)):
        raise DefinitionError(
            f"{place(function)}: retention is a timedelta above 0, or None for ever, not {retention!r}."
        )


def _is_duration(given: object) -> bool:
    return isinstance(given, timedelta) and given > timedelta(0)
