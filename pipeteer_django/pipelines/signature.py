"""Reads a function's annotations: what a pipeline takes and gives."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pipeteer_django.exceptions import DefinitionError
from pipeteer_django.pipelines.registry import place
from pipeteer_django.pipelines.valuetype import ValueType


@dataclass(frozen=True)
class Signature:
    """What a pipeline's function takes and gives."""

    input: ValueType
    output: ValueType
    parameter: str | None = None
    """The name of the parameter that takes the value; None: the function is called without it."""
    context: str | None = None
    """The name of the parameter that takes the context, if there is one."""


def function_signature(fn: Callable[..., Any]) -> Signature:
    """Read an activity's or workflow's `def f(value: A, ctx: Context) -> B`, of which both parameters may be left out.

    Raises DefinitionError naming function, place and remedy.
    """
    names, hints = _read(fn)
    parameter, context = [*names, None, None][:2]
    taken = _annotation(fn, hints, parameter) if parameter else None
    given = _annotation(fn, hints, "return")
    return Signature(
        _value_type(fn, parameter or "", taken), _value_type(fn, "return", given), parameter=parameter, context=context
    )


def task_signature(fn: Callable[..., Any], *, input_marker: Any, push_marker: Any) -> Signature:
    """Read a task's `def f(Input: type[InputT[A]], push: Push[B])`.

    Raises DefinitionError naming function, place and remedy.
    """
    if len(inspect.signature(fn).parameters) != 2:
        raise DefinitionError(f"{place(fn)}: a task takes its queue and push, nothing else. Write {_TASK}.")
    (model, push), hints = _read(fn)
    taken = _inside(fn, model, _inside(fn, model, _annotation(fn, hints, model), type), input_marker)
    given = _inside(fn, push, _annotation(fn, hints, push), push_marker)
    return Signature(_value_type(fn, model, taken), _value_type(fn, push, given), parameter=model)


_TASK = "`def f(Input: type[InputT[str]], push: Push[bool])`"


def _read(fn: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    """The names of at most two parameters and the resolved annotations of `fn`, or DefinitionError.

    Call it when the function's module is complete: an annotation may name what is defined further down.
    """
    parameters = inspect.signature(fn).parameters.values()
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise DefinitionError(
                f"{place(fn)}: the parameter `{parameter}` cannot be filled. A pipeline takes one value: "
                "put several into a dataclass."
            )
    if len(parameters) > 2:
        raise DefinitionError(
            f"{place(fn)}: has {len(parameters)} parameters, at most 2 can be filled (the last being the context). "
            "A pipeline takes one value: put several into a dataclass."
        )
    return [parameter.name for parameter in parameters], _hints(fn)


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except NameError as error:
        raise DefinitionError(
            f"{place(fn)}: its annotations name {error.name!r}, which its module does not define. Define or import it "
            "at the top level of the module, not under `if TYPE_CHECKING`."
        ) from error
    except Exception as error:
        raise DefinitionError(f"{place(fn)}: its annotations cannot be read: {error}. Correct them.") from error


def _annotation(fn: Callable[..., Any], hints: dict[str, Any], name: str) -> Any:
    if name in hints:
        return hints[name]
    if name == "return":
        raise DefinitionError(f"{place(fn)}: has no return annotation. Write what it returns, `-> None` if nothing.")
    raise DefinitionError(
        f"{place(fn)}: the parameter {name!r} has no annotation. Write its type, such as `{name}: int`; "
        "`Any` takes all that JSON can hold."
    )


def _inside(fn: Callable[..., Any], name: str, annotation: Any, outer: Any) -> Any:
    """A of `outer[A]`."""
    if get_origin(annotation) is not outer:
        shown = inspect.formatannotation(annotation)
        raise DefinitionError(f"{place(fn)}: the parameter {name!r} of a task is annotated {shown}. Write {_TASK}.")
    return get_args(annotation)[0]


def _value_type(fn: Callable[..., Any], name: str, annotation: Any) -> ValueType:
    try:
        return ValueType.of(annotation)
    except DefinitionError as error:
        where = "the result" if name == "return" else f"the parameter {name!r}"
        raise DefinitionError(f"{place(fn)}: {where}: {error}") from error
