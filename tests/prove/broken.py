"""The engine with one transaction torn in two, or a claim that counts nothing: the prover must find each of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connections

from pipeteer_django.queues import births, claim, settle
from pipeteer_django.queues.sweep import Sweeper
from pipeteer_django.worker import attempts


def install(name: str) -> None:
    """Apply a mutant to this process, before it forks."""
    MUTANTS[name]()


def _tear(using: str) -> None:
    """Commit what came so far, and go on in another transaction."""
    connection: Any = connections[using]
    connection._commit()
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")


def _torn_after(module: Any, name: str) -> None:
    real = getattr(module, name)

    def torn(*arguments: Any, **options: Any) -> Any:
        value = real(*arguments, **options)
        _tear("default")
        return value

    setattr(module, name, torn)


def _torn_before(module: Any, name: str) -> None:
    real = getattr(module, name)

    def torn(*arguments: Any, **options: Any) -> Any:
        _tear("default")
        return real(*arguments, **options)

    setattr(module, name, torn)


def effect_apart() -> None:
    """An atomic body runs before its transaction begins."""
    real = attempts.run_atomic

    def run_atomic(claim: Any, using: str, body: Callable[[], Any], *rest: Any) -> Any:
        value = body()
        return real(claim, using, lambda: value, *rest)

    attempts.run_atomic = run_atomic


def output_apart() -> None:
    """The output is committed before its entry is deleted."""
    _torn_after(settle, "_insert_outputs")


def result_apart() -> None:
    """A child's result is committed before its entry is deleted and its caller woken."""
    _torn_before(settle, "write")


def child_apart() -> None:
    """A step is committed before the entry that it calls."""
    _torn_before(births, "_insert_children")


def attempt_uncounted() -> None:
    """The claim's commit does not count the attempt."""
    claim._RESERVE = claim._RESERVE.replace("attempt = attempt + 1, ", "")


def no_sweep() -> None:
    """Nothing repairs what a crash between the two transactions of an atomic child leaves."""
    Sweeper.sweep = lambda self, priorities=None: set()  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    made.__name__: made for made in (effect_apart, output_apart, result_apart, child_apart, attempt_uncounted, no_sweep)
}
