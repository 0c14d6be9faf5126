"""Several tasks as one artifact."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, TypeVar

from pipeteer_django.exceptions import DefinitionError
from pipeteer_django.pipelines.registry import place
from pipeteer_django.pipelines.task import Task

Merged = TypeVar("Merged")


class Multitask(Generic[Merged]):
    """Merges the artifacts of tasks (or of other multitasks); it has no queue of its own."""

    def __init__(
        self, function: Callable[..., Merged], parts: tuple[Task[Any, Any, Any] | Multitask[Any], ...]
    ) -> None:
        if not parts:
            raise DefinitionError(f"{place(function)}: name at least one task, @pipeteer.multitask(approve, review).")
        for part in parts:
            if not isinstance(part, (Task, Multitask)):
                raise DefinitionError(f"{place(function)}: {part!r} is no task, so it has no artifact to merge.")
        self.function, self.parts = function, parts
        self.__doc__ = function.__doc__

    @cached_property
    def artifact(self) -> Merged:
        """What the function made of the parts' artifacts, called once."""
        return self.function(*(part.artifact for part in self.parts))


def multitask(*parts: Task[Any, Any, Any] | Multitask[Any]) -> Callable[[Callable[..., Merged]], Multitask[Merged]]:
    """`@multitask(approve, review) def inbox(a, b): return a + b`: one artifact of several."""

    def decorate(function: Callable[..., Merged]) -> Multitask[Merged]:
        return Multitask(function, parts)

    return decorate
