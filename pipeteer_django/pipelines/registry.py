"""All pipelines of the project by id: filled by the decorators, sealed once their tables are generated."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pipeteer_django.exceptions import DefinitionError, LateRegistration, PipeteerError

if TYPE_CHECKING:
    from pipeteer_django.pipelines.pipeline import Pipeline

_ID = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


def place(function: Callable[..., Any]) -> str:
    """Name, file and line of a function, for error messages."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"{function.__module__}.{function.__qualname__}{where}"


class Registry:
    """Maps ids to pipeline objects. Plain Python: it knows nothing of models."""

    def __init__(self) -> None:
        self._pipelines: dict[str, Pipeline[Any, Any]] = {}
        self._sealed = False

    def add(self, pipeline: Pipeline[Any, Any]) -> None:
        """Take in a pipeline; raises DefinitionError for a bad or used id, LateRegistration once sealed."""
        where = place(pipeline.function)
        if not _ID.fullmatch(pipeline.id):
            raise DefinitionError(
                f"{where}: {pipeline.id!r} cannot be a pipeline's id. "
                "Use a letter, then letters, digits and underscores, 63 at most."
            )
        other = self._pipelines.get(pipeline.id)
        if other is not None:
            raise DefinitionError(
                f"Two pipelines are called {pipeline.id!r}: {place(other.function)} and {where}. "
                f"Give one another id: @pipeteer.{pipeline.kind}(id=...). (pipeteer.E006)"
            )
        if self._sealed:
            raise LateRegistration(
                f"{where} was decorated after Django had loaded its models, so it has no tables. "
                "Move it to the pipelines.py of an installed app, or import its module from there."
            )
        self._pipelines[pipeline.id] = pipeline

    def seal(self) -> None:
        """From now on a new pipeline would have no tables."""
        self._sealed = True

    def get(self, id: str) -> Pipeline[Any, Any] | None:
        """The pipeline with this id, or None where this code does not know it."""
        return self._pipelines.get(id)

    def find(self, id: str) -> Pipeline[Any, Any]:
        """The pipeline with this id; raises PipeteerError with the nearest names."""
        if id in self._pipelines:
            return self._pipelines[id]
        near = difflib.get_close_matches(id, self._pipelines)
        hint = (
            f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(sorted(self._pipelines)) or 'none'}."
        )
        raise PipeteerError(f"No pipeline is called {id!r}. {hint}")

    def __iter__(self) -> Iterator[Pipeline[Any, Any]]:
        return iter(list(self._pipelines.values()))


registry = Registry()
