"""What a workflow can do that is recorded: its second parameter."""

from __future__ import annotations

import asyncio
import inspect
import random
import uuid
from collections.abc import Awaitable, Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from pipeteer_django.exceptions import InvalidValue, StepFailed
from pipeteer_django.pipelines.context import EntryLogger
from pipeteer_django.pipelines.values import check_text
from pipeteer_django.pipelines.valuetype import ValueType

if TYPE_CHECKING:
    from pipeteer_django.pipelines.pipeline import Pipeline
    from pipeteer_django.pipelines.replay import Run
    from pipeteer_django.pipelines.workflow import Workflow

A = TypeVar("A")
B = TypeVar("B")
B1 = TypeVar("B1")
B2 = TypeVar("B2")
B3 = TypeVar("B3")

_NOTHING: Any = None


class WorkflowContext:
    """What a workflow can do that is recorded; its second parameter.

    Times are seconds or timedeltas. Whatever waits here may wait for months: it costs a row, not a process.
    """

    key: str
    """The entry's key."""
    run_id: int
    """The entry's id, never reused."""
    log: EntryLogger
    """Prefixes every line with the key, and stays silent while a replay repeats what was logged before."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.key, self.run_id, self.log = run.spec.key, run.spec.run_id, ReplayLogger(run)

    # Calls

    def call(
        self,
        pipeline: Pipeline[A, B],
        value: A = _NOTHING,
        /,
        *,
        key: str | None = None,
        delay: float | timedelta = 0,
        priority: int = 0,
        timeout: float | timedelta | None = None,
        max_attempts: int | None = None,
    ) -> asyncio.Future[B]:
        """Call another pipeline: `x2 = await ctx.call(double, x)`. The call is a step, recorded when this is called.

        Returns an asyncio future, so gather, wait, TaskGroup and as_completed work with it; cancelling it cancels the
        call. Awaiting it raises StepFailed if the child was given up, TimeoutError if it was not done within
        `timeout`. `key` names the child's entry (StepFailed if its queue holds that key), `delay` lets it wait
        first, `priority` is -100..100, `max_attempts` stands in for the activity's own. Raises InvalidValue here if
        `value` does not fit, TypeError if `pipeline` is not one.
        """
        _check_pipeline(pipeline, "ctx.call")
        _check_options(key, priority, max_attempts)
        limit = None if timeout is None else seconds(timeout)
        return self._run.call(
            pipeline, value, timeout=limit, key=key, delay=seconds(delay), priority=priority, max_attempts=max_attempts
        )

    @overload
    async def all(self, call1: Awaitable[B1], call2: Awaitable[B2], /) -> tuple[B1, B2]: ...
    @overload
    async def all(self, call1: Awaitable[B1], call2: Awaitable[B2], call3: Awaitable[B3], /) -> tuple[B1, B2, B3]: ...
    @overload
    async def all(self, *calls: Awaitable[B]) -> tuple[B, ...]: ...
    @overload
    async def all(self, *calls: Awaitable[Any], return_exceptions: bool) -> tuple[Any, ...]: ...
    async def all(self, *calls: Awaitable[Any], return_exceptions: bool = False) -> tuple[Any, ...]:
        """Wait for several calls: `a, b = await ctx.all(ctx.call(f, 1), ctx.call(g, 2))`, in the arguments' order.

        The first failure is raised at once, or returned in its place if `return_exceptions`; the other calls go on.
        """
        _check_awaitables(calls, "ctx.all")
        return tuple(await asyncio.gather(*calls, return_exceptions=return_exceptions))

    async def any(self, *calls: Awaitable[B]) -> B:
        """Wait for the first of several calls to succeed and cancel the others; if all fail, raise the first failure.

        `await ctx.any(ctx.call(courier, parcel), ctx.call(post, parcel))`. Coroutines such as `ctx.receive(...)` and
        `ctx.sleep(...)` may be among them.
        """
        _check_awaitables(calls, "ctx.any")
        if not calls:
            raise TypeError("ctx.any needs at least one call.")
        futures = [asyncio.ensure_future(call) for call in calls]
        failure: BaseException | None = None
        try:
            for first in asyncio.as_completed(futures):
                try:
                    return await first
                except Exception as error:
                    failure = failure or error
        finally:
            for future in futures:
                future.cancel()
        assert failure is not None
        raise failure

    @overload
    async def map(self, pipeline: Pipeline[A, B], values: Iterable[A], *, limit: int = 100) -> list[B]: ...
    @overload
    async def map(
        self, pipeline: Pipeline[A, B], values: Iterable[A], *, limit: int = 100, return_exceptions: bool
    ) -> list[Any]: ...
    async def map(
        self, pipeline: Pipeline[A, Any], values: Iterable[A], *, limit: int = 100, return_exceptions: bool = False
    ) -> list[Any]:
        """Call `pipeline` once for each value, at most `limit` calls at a time; the results in the values' order.

        The first failure cancels the rest and is raised, or stands in its place if `return_exceptions`.
        """
        _check_pipeline(pipeline, "ctx.map")
        if limit < 1:
            raise ValueError(f"ctx.map: limit must be at least 1, not {limit}.")
        results: dict[int, Any] = {}
        left = iter(enumerate(values))

        async def work() -> None:
            for number, value in left:
                try:
                    results[number] = await self.call(pipeline, value)
                except StepFailed as error:
                    if not return_exceptions:
                        raise
                    results[number] = error

        workers = [asyncio.create_task(work()) for _ in range(limit)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        return [results[number] for number in range(len(results))]

    # Time

    def now(self) -> datetime:
        """The time of the latest event that the run has taken: what a replay reads here, too."""
        return self._run.now

    async def sleep(self, delay: float | timedelta) -> None:
        """Wait, for months if need be."""
        await asyncio.sleep(seconds(delay))

    async def sleep_until(self, moment: datetime) -> None:
        """Wait until this moment, which has a time zone."""
        if moment.tzinfo is None:
            raise InvalidValue(f"ctx.sleep_until needs a datetime with a time zone, not {moment!r}.")
        await asyncio.sleep((moment - self.now()).total_seconds())

    # Messages

    @overload
    async def receive(self, name: str, *, timeout: float | timedelta | None = None) -> Any: ...
    @overload
    async def receive(self, name: str, type: type[B], *, timeout: float | timedelta | None = None) -> B: ...
    async def receive(self, name: str, type: Any = None, *, timeout: float | timedelta | None = None) -> Any:
        """Wait for the next message with this name: `approved = await ctx.receive("approved", bool)`.

        Messages are kept in the order in which they were sent until they are received, each once, also those sent
        before. `type` may be left out for a name that the workflow declares: `@pipeteer.workflow(messages={...})`.
        Raises TimeoutError, and InvalidValue if the message does not fit.
        """
        declared = self._run.spec.messages
        if declared and name not in declared:
            raise InvalidValue(f"ctx.receive: {name!r} is not among the workflow's messages: {', '.join(declared)}.")
        kind = declared.get(name) or _type_of(Any) if type is None else _type_of(type)
        async with asyncio.timeout(None if timeout is None else seconds(timeout)):
            value = await self._run.receive(name)
        return kind.from_json(value)

    async def send(self, workflow: Workflow[Any, Any], key: str, name: str, value: Any = None) -> None:
        """Send a message to another run: `await ctx.send(order, "o-1", "paid", True)`.

        Raises StepFailed if no run has that key, InvalidValue if the value does not fit, or nothing can have that key.
        """
        if getattr(workflow, "kind", None) != "workflow":
            raise TypeError(f"ctx.send: {workflow!r} is no workflow, and only workflows receive messages.")
        _check_key(key, "ctx.send")
        await self._run.send(workflow.id, key, name, workflow.message_type(name).to_json(value))

    # Chance

    @property
    def random(self) -> random.Random:
        """A `random.Random` of the run's own, which gives the same numbers in a replay. Not for secrets."""
        return self._run.random()

    def uuid(self) -> uuid.UUID:
        """A random UUID, the same in a replay."""
        return uuid.UUID(int=self._run.random().getrandbits(128), version=4)

    # The course of things

    def patched(self, name: str) -> bool:
        """Whether this run may take a new path of the code: `if ctx.patched("ask-twice"): ...`.

        False for runs that had passed this place before the code was changed: they go on as they began.
        """
        return self._run.patched(name)

    def compensate(self, pipeline: Pipeline[A, Any], value: A = _NOTHING) -> None:
        """Register what undoes the work just done: it is called if the run fails or is cancelled, last first.

        A run that has compensated is over: `restart` it rather than `retry` it.
        """
        _check_pipeline(pipeline, "ctx.compensate")
        self._run.compensate(pipeline, value)

    def continue_as_new(self, value: Any = None) -> NoReturn:
        """End here and begin again with another value, under the same key and with an empty record.

        For workflows that never end: the record of a run should stay below some ten thousand steps. Messages that
        were not received are kept; what was registered with `compensate` is forgotten, open calls are cancelled.
        """
        self._run.begin_again(value)

    def progress(self, fraction: float | None, text: str = "") -> None:
        """Say how far the run is: a number from 0 to 1 (None: unknown) and a line, shown wherever the run is.

        Written down when the run next waits.
        """
        if fraction is not None and not 0 <= fraction <= 1:
            raise InvalidValue(f"ctx.progress: a fraction is a number from 0 to 1, not {fraction!r}.")
        check_text(text, ("text",))
        self._run.progress(fraction, text[:200])


class ReplayLogger(EntryLogger):
    """Writes each line once, whatever is replayed."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.spec.pipeline, run.spec.key)
        self._run = run

    def isEnabledFor(self, level: int) -> bool:
        """Not while the workflow repeats what it did before."""
        return self._run.live and super().isEnabledFor(level)


def seconds(duration: object) -> float:
    """A duration in seconds; raises InvalidValue for what is none."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, (int, float)) and not isinstance(duration, bool) and duration == duration:
        return float(duration)
    raise InvalidValue(f"A duration is a number of seconds or a timedelta, not {duration!r}.")


@lru_cache(maxsize=256)
def _type_of(annotation: Any) -> ValueType:
    return ValueType.of(annotation)


def _check_awaitables(calls: Iterable[object], where: str) -> None:
    for call in calls:
        if not inspect.isawaitable(call):
            raise TypeError(f"{where} takes calls, not {type(call).__name__}: write {where}(*calls).")


def _check_key(key: object, where: str) -> None:
    if not (isinstance(key, str) and 0 < len(key) <= 200):
        raise InvalidValue(f"{where}: a key is a text of 1 to 200 characters, not {key!r}.")
    check_text(key, ("key",))


def _check_options(key: object, priority: object, max_attempts: object) -> None:
    if key is not None:
        _check_key(key, "ctx.call")
    if not isinstance(priority, int) or not -100 <= priority <= 100:
        raise InvalidValue(f"ctx.call: priority {priority!r} is no whole number from -100 to 100 (higher first).")
    if max_attempts is not None and (not isinstance(max_attempts, int) or max_attempts < 1):
        raise InvalidValue(f"ctx.call: max_attempts must be at least 1, or None, not {max_attempts!r}.")


def _check_pipeline(pipeline: object, where: str) -> None:
    if all(hasattr(pipeline, name) for name in ("id", "input", "output")):
        return
    name = getattr(pipeline, "__name__", None) or repr(pipeline)
    if inspect.iscoroutine(pipeline):
        pipeline.close()
        raise TypeError(f"{where} takes a pipeline and its value: {where}({name}, x), not {where}({name}(x)).")
    remedy = (
        "Decorate it with @pipeteer.activity(), or call it without ctx." if callable(pipeline) else "Pass a pipeline."
    )
    raise TypeError(f"{where} cannot call {name}, which is no pipeline. {remedy}")
