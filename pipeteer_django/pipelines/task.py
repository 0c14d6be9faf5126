"""Tasks: work that people, or the user's own views, complete."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pipeteer_django.pipelines.pipeline import FROM_SETTINGS, A, B, Pipeline, Retention
from pipeteer_django.pipelines.signature import Signature, task_signature

D = TypeVar("D", contravariant=True)
Artifact = TypeVar("Artifact")


class InputT(Generic[A]):
    """`type[InputT[str]]` annotates a task's first parameter: the model of its queue, holding `str` values."""

    key: str
    value: A
    output: str
    objects: ClassVar[Any]


class Push(Protocol[D]):
    """`push(key, value)` completes the entry `key`: True for the one caller that won, False where it was gone."""

    def __call__(self, key: str, value: D) -> bool: ...


class Task(Pipeline[A, B], Generic[A, B, Artifact]):
    """A queue without workers. `artifact` is what its function made of queue and push, such as URL patterns."""

    kind: ClassVar[str] = "task"
    runs_here: ClassVar[bool] = False

    @cached_property
    def signature(self) -> Signature:
        """Read from `type[InputT[A]]` and `Push[B]`."""
        return task_signature(self.function, input_marker=InputT, push_marker=Push)

    @cached_property
    def artifact(self) -> Artifact:
        """What the function returns, called once with the queue's model and `push`; include it in your URLconf."""
        return self.function(self.Input, self.push)  # type: ignore[no-any-return]

    def push(self, key: str, value: B) -> bool:
        """Complete the entry `key` with `value`. True for the one caller that won; raises InvalidValue."""
        return bool(self.Input.objects.push(key, value))

    async def apush(self, key: str, value: B) -> bool:
        """`push` for async code."""
        return bool(await self.Input.objects.apush(key, value))


def task(
    *, id: str | None = None, retention: Retention = FROM_SETTINGS
) -> Callable[[Callable[[type[InputT[A]], Push[B]], Artifact]], Task[A, B, Artifact]]:
    """Make `def f(Input: type[InputT[A]], push: Push[B])` a task: values of type A wait until somebody pushes a B.

    `retention`: how long outputs are kept (None: for ever).
    """

    def decorate(function: Callable[[type[InputT[A]], Push[B]], Artifact]) -> Task[A, B, Artifact]:
        return Task(function, id=id, retention=retention)

    return decorate
