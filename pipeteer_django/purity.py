"""What a workflow's own source calls that no replay repeats: the clock, chance, the world outside.

The source is read and never run. A name means what it would mean to Python: something in the function's closure, its
module, the builtins, or an import inside the function. What cannot be told is left alone: a run that turns out impure
is parked with an ImpureWorkflow anyway.
"""

from __future__ import annotations

import ast
import builtins
import datetime
import inspect
import os
import random
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from django.utils import timezone

_NOW = "ctx.now() is the same in every replay."
_CHANCE = "ctx.random draws the same in every replay."
_UUID = "ctx.uuid() is the same in every replay."
_SLEEP = "await ctx.sleep(...) is durable and blocks nobody."
_OUTSIDE = "Call an activity that does it: its result is recorded."

_HINTS = {
    **dict.fromkeys(("time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns"), _NOW),
    **dict.fromkeys(("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"), _NOW),
    **dict.fromkeys(("datetime.date.today", "django.utils.timezone.now"), _NOW),
    **dict.fromkeys(("uuid.uuid1", "uuid.uuid4"), _UUID),
    "os.urandom": _CHANCE,
    "time.sleep": _SLEEP,
    "open": _OUTSIDE,
}
_OUTER_WORLD = ("requests", "httpx", "urllib.request", "socket", "_socket", "threading", "_thread", "subprocess")
_HINTS_OF_MODULES = {**dict.fromkeys(("random", "secrets"), _CHANCE), **dict.fromkeys(_OUTER_WORLD, _OUTSIDE)}
"""Of these everything counts. They are known by name, so that nothing is imported for them."""
_HARMLESS = {"secrets.compare_digest"}


def _known(module: ModuleType, names: Iterable[str]) -> dict[int, str]:
    return {id(vars(module)[name]): f"{module.__name__}.{name}" for name in names}


_KNOWN = {
    id(builtins.open): "open",
    **_known(random, random.__all__),
    **_known(secrets, set(secrets.__all__) - {"compare_digest"}),
    **_known(time, ("time", "time_ns", "monotonic", "monotonic_ns", "sleep")),
    **_known(uuid, ("uuid1", "uuid4")),
    **_known(os, ("urandom",)),
    **_known(timezone, ("now",)),
}
"""Objects whose own attributes do not tell how people call them."""


@dataclass(frozen=True, slots=True)
class Impurity:
    """One call in a workflow's source."""

    line: int
    construct: str
    """What is called, by its full name, whatever the source calls it."""
    hint: str


def impurities(function: Callable[..., Any]) -> list[Impurity]:
    """The calls in a function's own source that a replay does not repeat; none where there is no source."""
    function = inspect.unwrap(function)
    tree, lines_before = _definition(function)
    if tree is None:
        return []
    scope = _Scope(function, tree)
    found = []
    # Only the body: decorators and defaults ran when the module was imported.
    for node in (node for statement in tree.body for node in ast.walk(statement)):
        if isinstance(node, ast.Call) and (name := scope.name_of(node.func)) and (hint := _hint(name, node)):
            found.append(Impurity(node.lineno + lines_before, name, hint))
    return sorted(found, key=lambda impurity: impurity.line)


def _definition(function: Any) -> tuple[ast.AsyncFunctionDef | None, int]:
    """The `async def` of a function, and how many lines its file has before what was parsed."""
    try:
        lines, first = inspect.getsourcelines(function)
        indented = lines[0][:1].isspace()
        module = ast.parse("".join(["if True:\n", *lines] if indented else lines))
    except (OSError, TypeError, SyntaxError, IndexError):  # typed into a shell, or only compiled files are there
        return None, 0
    found = (node for node in ast.walk(module) if isinstance(node, ast.AsyncFunctionDef))
    return next(found, None), first - 1 - indented


def _hint(name: str, call: ast.Call) -> str | None:
    if name == "random.Random" and (call.args or call.keywords):
        return None  # seeded: it draws the same again
    return _HINTS.get(name) or next((hint for module, hint in _HINTS_OF_MODULES.items() if _within(name, module)), None)


def _within(name: str, module: str) -> bool:
    return name.startswith(f"{module}.") and name not in _HARMLESS


class _Scope:
    """What the names in a function's source mean."""

    def __init__(self, function: Any, tree: ast.AsyncFunctionDef) -> None:
        self._bound = set(_bound(tree))
        self._imported = dict(_imported(tree))
        self._outer: list[Mapping[str, Any]] = [_closure(function), function.__globals__, vars(builtins)]

    def name_of(self, called: ast.expr) -> str | None:
        """The full name of what a call calls, where that is certain."""
        attributes: list[str] = []
        while isinstance(called, ast.Attribute):
            attributes.insert(0, called.attr)
            called = called.value
        if not isinstance(called, ast.Name) or called.id in self._bound:
            return None
        if called.id in self._imported:
            return ".".join([self._imported[called.id], *attributes])
        value = next((names[called.id] for names in self._outer if called.id in names), None)
        return _name_of_attribute(value, attributes)


def _name_of_attribute(value: Any, attributes: list[str]) -> str | None:
    while isinstance(value, ModuleType) and attributes:
        if value.__name__ in _HINTS_OF_MODULES and not _is_exception(vars(value).get(attributes[0])):
            break
        if attributes[0] not in vars(value):
            return None
        value = vars(value)[attributes.pop(0)]
    name = _full_name(value)
    return ".".join([name, *attributes]) if name else None


def _full_name(value: Any) -> str | None:
    if id(value) in _KNOWN:
        return _KNOWN[id(value)]
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, type):
        return _class_name(value)
    if not inspect.isroutine(value):
        return None
    owner = getattr(value, "__self__", None)
    place = _class_name(owner) if isinstance(owner, type) else value.__module__
    return f"{place}.{value.__name__}"


def _is_exception(value: Any) -> bool:
    """To make one is harmless, whoever defines it."""
    return isinstance(value, type) and issubclass(value, BaseException)


def _class_name(value: type) -> str | None:
    if _is_exception(value):
        return None
    for clock in (datetime.datetime, datetime.date):
        if issubclass(value, clock):
            return f"datetime.{clock.__name__}"
    return f"{value.__module__}.{value.__qualname__}"


def _bound(tree: ast.AsyncFunctionDef) -> Iterator[str]:
    """Names that the function, or one inside it, gives a meaning of its own; imports are told apart."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name


def _imported(tree: ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    """The full names of what the function imports itself, by the names that it gives them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (package, package)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{'.' * node.level}{node.module or ''}.{alias.name}"


def _closure(function: Any) -> dict[str, Any]:
    names: tuple[str, ...] = function.__code__.co_freevars
    return {name: value for name, cell in zip(names, function.__closure__ or (), strict=True) for value in _held(cell)}


def _held(cell: Any) -> Iterator[Any]:
    """The value of a closure's variable, or nothing while it has none."""
    try:
        yield cell.cell_contents
    except ValueError:
        return
