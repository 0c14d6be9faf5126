"""Activities: functions that do things. They may run more than once after a crash, unless `atomic`."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, ClassVar, Protocol, TypeVar, overload

from pipeteer_django.exceptions import DefinitionError
from pipeteer_django.pipelines.context import Context
from pipeteer_django.pipelines.outcome import Failed, Failure, Retry
from pipeteer_django.pipelines.pipeline import FROM_SETTINGS, A, B, Pipeline, Retention
from pipeteer_django.pipelines.registry import place

Errors = tuple[type[BaseException], ...]
C = TypeVar("C", bound=Context, contravariant=True)


class Activity(Pipeline[A, B]):
    """A function, sync or async, and how it is retried."""

    kind: ClassVar[str] = "activity"

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        id: str | None = None,
        reserve: timedelta | None = None,
        retention: Retention = FROM_SETTINGS,
        atomic: bool = False,
        max_attempts: int | None = None,
        retry_on: Errors = (Exception,),
        no_retry_on: Errors = (),
        backoff: float = 1.0,
        max_backoff: float = 3600.0,
        timeout: float | None = None,
    ) -> None:
        self.is_async = inspect.iscoroutinefunction(function)
        self.atomic = atomic
        self.threaded = atomic or not self.is_async
        self.max_attempts = max_attempts
        self.retry_on = retry_on
        self.no_retry_on = no_retry_on
        self.backoff = backoff
        self.max_backoff = max_backoff
        self.timeout = timeout
        self._check_options(function)
        super().__init__(function, id=id, reserve=reserve, retention=retention)

    def _check_options(self, function: Callable[..., Any]) -> None:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise DefinitionError(f"{place(function)} is a generator. An activity returns its value: use return.")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise DefinitionError(f"{place(function)}: max_attempts must be at least 1, or None for no limit.")
        for name in ("backoff", "max_backoff", "timeout"):
            seconds = getattr(self, name)
            positive = isinstance(seconds, (int, float)) and seconds > 0
            if not (positive or (seconds is None and name == "timeout")):
                raise DefinitionError(f"{place(function)}: {name} is a number of seconds above 0, not {seconds!r}.")
        for name in ("retry_on", "no_retry_on"):
            for error in getattr(self, name):
                if not (isinstance(error, type) and issubclass(error, BaseException)):
                    raise DefinitionError(
                        f"{place(function)}: {name} is an exception class or a tuple of such, not {error!r}."
                    )

    def after_error(self, error: BaseException, attempt: int, max_attempts: int | None = None) -> Retry | Failed:
        """What follows when attempt number `attempt` raised `error`: another one after a backoff, or giving up.

        `max_attempts`: the caller's, in place of the activity's own.
        """
        failure = Failure.of(error)
        limit = max_attempts or self.max_attempts
        if self._retryable(error) and (limit is None or attempt < limit):
            return Retry(failure, self.delay_after(attempt))
        return Failed(failure)

    def _retryable(self, error: BaseException) -> bool:
        if isinstance(error, self.no_retry_on):
            return False
        # SystemExit and the like raised by a body are failed attempts like any other: they never mean the worker.
        return isinstance(error, self.retry_on) or not isinstance(error, Exception)

    def delay_after(self, attempt: int) -> float:
        """Seconds until the next attempt: exponential, with jitter so that a crowd of retries spreads out."""
        longest = min(self.max_backoff, self.backoff * 2.0 ** min(attempt - 1, 60))
        return longest * random.uniform(0.5, 1.0)


class ActivityDecorator(Protocol):
    """What `activity(...)` returns, as type checkers see it."""

    @overload
    def __call__(self, function: Callable[[A], Coroutine[Any, Any, B]], /) -> Activity[A, B]: ...
    @overload
    def __call__(self, function: Callable[[A, C], Coroutine[Any, Any, B]], /) -> Activity[A, B]: ...
    @overload
    def __call__(self, function: Callable[[A], B], /) -> Activity[A, B]: ...
    @overload
    def __call__(self, function: Callable[[A, C], B], /) -> Activity[A, B]: ...
    @overload
    def __call__(self, function: Callable[[], Coroutine[Any, Any, B]], /) -> Activity[None, B]: ...
    @overload
    def __call__(self, function: Callable[[], B], /) -> Activity[None, B]: ...


def activity(
    *,
    id: str | None = None,
    atomic: bool = False,
    max_attempts: int | None = None,
    retry_on: type[BaseException] | Errors = (Exception,),
    no_retry_on: type[BaseException] | Errors = (),
    backoff: float = 1.0,
    max_backoff: float = 3600.0,
    timeout: float | None = None,
    reserve: timedelta | None = None,
    retention: Retention = FROM_SETTINGS,
) -> ActivityDecorator:
    """Make a function an activity.

    `atomic`: the function's ORM writes, its output and the removal of its input commit in one transaction.
    `max_attempts`: tries before giving up (None: no limit). `retry_on` / `no_retry_on`: exception classes.
    `backoff`, `max_backoff`: seconds before the second attempt, doubling up to the latter. `timeout`: seconds per
    attempt (an async body is cancelled; a sync body cannot be, its result is discarded). `reserve`: lease length.
    `retention`: how long outputs are kept (None: for ever).
    Raises DefinitionError for what cannot work.
    """

    def decorate(function: Callable[..., Any]) -> Activity[Any, Any]:
        return Activity(
            function,
            id=id,
            atomic=atomic,
            max_attempts=max_attempts,
            retry_on=_as_tuple(retry_on),
            no_retry_on=_as_tuple(no_retry_on),
            backoff=backoff,
            max_backoff=max_backoff,
            timeout=timeout,
            reserve=reserve,
            retention=retention,
        )

    return decorate


def _as_tuple(errors: type[BaseException] | Errors) -> Errors:
    return errors if isinstance(errors, tuple) else (errors,)
