"""Runs a workflow over its record: events are fed one by one, and what it then waits for is the outcome."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pipeteer_django.exceptions import ImpureWorkflow, NotDurable, StepFailed
from pipeteer_django.pipelines.context import EntryLogger
from pipeteer_django.pipelines.loop import DurableFuture, DurableLoop, DurableTask
from pipeteer_django.pipelines.outcome import (
    Call,
    Consumed,
    Done,
    Failed,
    Failure,
    Parked,
    RecordedStep,
    Waiting,
    shorten,
)
from pipeteer_django.pipelines.values import canonical

if TYPE_CHECKING:
    from pipeteer_django.pipelines.pipeline import Pipeline
    from pipeteer_django.pipelines.valuetype import ValueType

A = TypeVar("A")
B = TypeVar("B")
B1 = TypeVar("B1")
B2 = TypeVar("B2")
B3 = TypeVar("B3")

_NOTHING: Any = None
_OTHER_CODE = (
    "The code was changed while this run was under way, or it depends on something that is not recorded (the time, "
    "chance, the database, the order of a set). Bring the old code back and retry, or restart the run."
)


class WorkflowContext:
    """What a workflow can do that is recorded; its second parameter."""

    key: str
    """The entry's key."""
    run_id: int
    """The entry's id, never reused."""
    log: EntryLogger
    """Prefixes every line with the key, and stays silent while a replay repeats what was logged before."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.key, self.run_id, self.log = run.key, run.run_id, ReplayLogger(run)

    def call(self, pipeline: Pipeline[A, B], value: A = _NOTHING, /) -> asyncio.Future[B]:
        """Call another pipeline: `x2 = await ctx.call(double, x)`. The call is a step, recorded when this is called.

        Returns an asyncio future, so gather, wait, TaskGroup and as_completed work with it. Awaiting it raises
        StepFailed if the child was given up. Raises InvalidValue here if `value` does not fit, TypeError if
        `pipeline` is not one.
        """
        return self._run.call(pipeline, value)

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
        for call in calls:
            if not inspect.isawaitable(call):
                raise TypeError(f"ctx.all takes calls, not {type(call).__name__}: write ctx.all(*calls).")
        return tuple(await asyncio.gather(*calls, return_exceptions=return_exceptions))


class ReplayLogger(EntryLogger):
    """Writes each line once, whatever is replayed."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.pipeline, run.key)
        self._run = run

    def isEnabledFor(self, level: int) -> bool:
        """Not while the workflow repeats what it did before."""
        return self._run.live and super().isEnabledFor(level)


def run(
    function: Callable[[Any, WorkflowContext], Coroutine[Any, Any, Any]],
    value: Any,
    *,
    pipeline: str,
    key: str,
    run_id: int,
    output: ValueType,
    steps: Sequence[RecordedStep] = (),
    started_at: datetime | None = None,
) -> Done | Waiting | Failed | Parked:
    """Run a workflow from its beginning over `steps`, those of its branch by index, and say what follows.

    Raises nothing that the workflow raises. `pipeline` is the workflow's id, `output` the type of what it returns.
    """
    replayed = Run(
        function, value, pipeline=pipeline, key=key, run_id=run_id, output=output, steps=steps, started_at=started_at
    )
    try:
        replayed.start()
        for event in in_order(steps):
            replayed.feed(event)
        return replayed.outcome()
    finally:
        replayed.close()


def in_order(steps: Iterable[RecordedStep]) -> list[RecordedStep]:
    """The events among `steps` as they are to be fed: those consumed before in their order, then new ones by time."""
    events = [(step.done_at, step) for step in steps if step.done_at is not None]
    consumed = [step for _, step in events if step.order is not None]
    new = [(done_at, step) for done_at, step in events if step.order is None]
    new.sort(key=lambda event: (event[0], event[1].id))
    return sorted(consumed, key=lambda step: step.order or 0) + [step for _, step in new]


class Run:
    """One run of a workflow in memory: `start`, `feed` its events `in_order`, ask its `outcome`, `close` it.

    While the outcome is Waiting it can be kept: tell it the rows of its calls with `recorded`, and feed what happens
    next. All methods are called from one thread.
    """

    def __init__(
        self,
        function: Callable[[Any, WorkflowContext], Coroutine[Any, Any, Any]],
        value: Any,
        *,
        pipeline: str,
        key: str,
        run_id: int,
        output: ValueType,
        steps: Sequence[RecordedStep] = (),
        started_at: datetime | None = None,
    ) -> None:
        self.pipeline, self.key, self.run_id = pipeline, key, run_id
        self._function, self._value, self._output = function, value, output
        self._steps = list(steps)
        self._history = sum(step.done_at is not None and step.order is not None for step in steps)
        self._replaying = bool(steps)
        self._loop = DurableLoop(self._report)  # type: ignore[abstract]  # typeshed's view; at run time nothing is
        self._loop.now = started_at.timestamp() if started_at else 0.0
        self._main: DurableTask[Any] | None = None
        self._outstanding: dict[int, tuple[Pipeline[Any, Any], DurableFuture[Any]]] = {}
        self._called = 0
        self._order = 0
        self._calls: list[Call] = []
        self._consumed: list[Consumed] = []
        self._defect: Exception | None = None
        self._fatal: BaseException | None = None
        self._ended = False

    # Driving

    def start(self) -> None:
        """Run the function until it waits for its first event."""
        for position, step in enumerate(self._steps):
            if step.index != position:
                self._impure(f"step {position} is missing from its record", "Restart the run.")
                return
        # An empty context: what this worker has in its own would be another one's at the next replay.
        self._main = self._loop.create_task(self._body(), context=Context())
        self._advance()

    async def _body(self) -> Any:
        return await self._function(self._value, WorkflowContext(self))

    def feed(self, event: RecordedStep) -> None:
        """Give the workflow one finished step, and run it until it waits again. After its end it consumes nothing."""
        if self._ended or self._defect:
            self._outstanding.pop(event.index, None)
            return
        if event.index >= self._called:
            self._impure(
                f"step {event.index}, {_shown(event.pipeline, event.param)}, was finished when the code had called "
                f"only {self._called} steps"
            )
            return
        if event.index in self._outstanding:
            self._consume(event)
            self._resolve(event)
            self._advance()

    def _consume(self, event: RecordedStep) -> None:
        if event.order is not None:
            self._history -= 1
            self._order = event.order
        else:
            self._order += 1
            self._consumed.append(Consumed(event.id, self._order))
        if event.done_at is not None:
            self._loop.now = max(self._loop.now, event.done_at.timestamp())

    def _resolve(self, event: RecordedStep) -> None:
        pipeline, future = self._outstanding.pop(event.index)
        if future.done():
            return
        if event.error is not None:
            future.set_exception(_step_failed(event.pipeline, **event.error))
            return
        try:
            future.set_result(pipeline.output.from_json(event.result))
        except Exception as error:  # the code's type is no longer that of the stored value
            self._defect = error

    def _advance(self) -> None:
        assert self._main is not None
        try:
            self._loop.run_until_idle()
        except NotDurable as error:
            self._defect = error
        except (SystemExit, KeyboardInterrupt) as error:
            self._fatal = error
        if self._fatal or self._main.done():
            self._end()
        if self._replaying and not self._history:
            self._catch_up()

    def _end(self) -> None:
        """Let the tasks that are left clean up; what they call no longer counts."""
        self._ended = True
        with suppress(NotDurable, SystemExit, KeyboardInterrupt):
            self._loop.cancel_all()

    def _catch_up(self) -> None:
        """All that was consumed before has been fed: the code is where it was, or it is not the same code."""
        self._replaying = False
        if self._called < len(self._steps):
            missing = self._steps[self._called]
            self._impure(
                f"step {missing.index} was recorded as {_shown(missing.pipeline, missing.param)}, and the code "
                "no longer makes this call"
            )

    def recorded(self, steps: Iterable[RecordedStep]) -> None:
        """The calls of the last outcome are rows now, and its consumed events are marked: go on from there."""
        self._steps.extend(steps)
        self._calls.clear()
        self._consumed.clear()

    def close(self) -> None:
        """Throw the run away: whatever is suspended ends quietly, and no call is made by that."""
        self._loop.discard()
        self._outstanding.clear()

    # Calls

    def call(self, pipeline: Pipeline[Any, Any], value: Any) -> DurableFuture[Any]:
        """What `ctx.call` does."""
        _check_pipeline(pipeline)
        param = pipeline.input.to_json(value)
        future = self._loop.create_future()
        # Where nothing counts any more nothing is raised either, which code could catch and repeat for ever: the
        # future never comes, and the code ends where it waits for it.
        if not (self._defect or self._ended or self._loop.is_closed()):
            self._outstanding[self._called] = pipeline, future
            self._number(pipeline, value, param)
        return future

    def _number(self, pipeline: Pipeline[Any, Any], value: Any, param: Any) -> None:
        index = self._called
        self._called += 1
        if index < len(self._steps):
            self._compare(self._steps[index], pipeline, param)
        elif self._history:
            self._impure(
                f"its record ends with step {len(self._steps) - 1}, and before all of that had happened again the code "
                f"made another call, {_shown(pipeline.id, param)}{_call_site()}"
            )
        else:
            self._calls.append(Call(index, pipeline, pipeline.input.check(value), param))

    def _compare(self, step: RecordedStep, pipeline: Pipeline[Any, Any], param: Any) -> None:
        if pipeline.id != step.pipeline or canonical(param) != canonical(step.param):
            self._impure(
                f"step {step.index} was recorded as {_shown(step.pipeline, step.param)}, and the code now calls "
                f"{_shown(pipeline.id, param)}{_call_site()}"
            )

    def _impure(self, difference: str, remedy: str = _OTHER_CODE) -> None:
        if self._defect is None:
            self._defect = ImpureWorkflow(f"{self.pipeline} does not repeat its record: {difference}. {remedy}")

    # Outcome

    def outcome(self) -> Done | Waiting | Failed | Parked:
        """What the run has come to: the calls, the events consumed, the value or the error."""
        assert self._main is not None or self._defect
        if self._ended and self._history:
            self._impure(f"it ended with {self._history} recorded events still to come")
        if self._defect:
            return Parked(Failure.of(self._defect))
        if self._ended:
            return self._finished()
        if not self._outstanding:
            return Failed(Failure.of(self._stuck()))
        return Waiting(tuple(self._calls), tuple(self._consumed))

    def _finished(self) -> Done | Failed:
        assert self._main is not None
        open_steps = tuple(
            self._steps[index]
            for index in self._outstanding
            if index < len(self._steps) and self._steps[index].done_at is None
        )
        try:
            if self._fatal:
                raise self._fatal
            return Done(self._output.check(self._main.result()), tuple(self._consumed), open_steps)
        except BaseException as error:  # SystemExit and the like, raised by the workflow, never mean the worker
            return Failed(Failure.of(error), open_steps)

    def _stuck(self) -> NotDurable:
        return NotDurable(
            f"{self.pipeline} waits for something that can never arrive: no call is outstanding, and only the result "
            "of a call wakes a workflow. Look for an Event, Future or Queue that nobody fills; await a ctx.call."
        )

    # Reporting

    @property
    def live(self) -> bool:
        """Whether what happens now happens for the first time, and counts."""
        return not (self._replaying or self._defect or self._loop.is_closed())

    def _report(self, context: dict[str, Any]) -> None:
        if not self._ended:
            ReplayLogger(self).error("%s", context["message"], exc_info=context.get("exception"))


def _check_pipeline(pipeline: object) -> None:
    if all(hasattr(pipeline, name) for name in ("id", "input", "output")):
        return
    name = getattr(pipeline, "__name__", None) or repr(pipeline)
    if inspect.iscoroutine(pipeline):
        pipeline.close()
        raise TypeError(f"ctx.call takes a pipeline and its value: ctx.call({name}, x), not ctx.call({name}(x)).")
    remedy = (
        "Decorate it with @pipeteer.activity(), or call it without ctx." if callable(pipeline) else "Pass a pipeline."
    )
    raise TypeError(f"ctx.call cannot call {name}, which is no pipeline. {remedy}")


def _step_failed(pipeline: str, /, type: str, message: str, traceback: str = "") -> StepFailed:
    return StepFailed(pipeline, type, message, traceback)


def _shown(pipeline: str, param: Any) -> str:
    return f"{pipeline}({shorten(canonical(param), 300)})"


def _call_site() -> str:
    """Where the workflow made the call that is being looked at."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals is globals():
        frame = frame.f_back
    return f" at {frame.f_code.co_filename}:{frame.f_lineno}"
