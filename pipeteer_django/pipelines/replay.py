"""Runs a workflow over its record: events are fed one by one, and what it then waits for is the outcome."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import Context
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from pipeteer_django.exceptions import NotDurable, StepFailed
from pipeteer_django.pipelines.calls import BeginAgain, CallFuture, OpenCall, OpenTimer, Spec, step_failed
from pipeteer_django.pipelines.difference import shown
from pipeteer_django.pipelines.ledger import Ledger
from pipeteer_django.pipelines.loop import DurableLoop, DurableTask, DurableTimer
from pipeteer_django.pipelines.outcome import (
    Call,
    Cancelled,
    Continued,
    Done,
    Failed,
    Failure,
    Parked,
    Waiting,
)
from pipeteer_django.pipelines.record import (
    CANCEL,
    PATCH,
    RANDOM,
    SEND,
    TIMER,
    Event,
    Fired,
    Record,
    RecordedMessage,
    RecordedStep,
    by_time,
    due_at,
    timestamp,
)
from pipeteer_django.pipelines.workflowcontext import ReplayLogger, WorkflowContext

if TYPE_CHECKING:
    from pipeteer_django.pipelines.pipeline import Pipeline

Outcome = Done | Waiting | Continued | Cancelled | Failed | Parked


def run(spec: Spec, record: Record | None = None, now: datetime | None = None) -> Outcome:
    """Run a workflow from its beginning over its record, and say what follows. Raises nothing that it raises.

    `now` by the database's clock: timers that are due by it fire.
    """
    record = record or Record()
    replayed = Run(spec, record)
    try:
        replayed.start()
        replayed.feed(record.new(), now)
        return replayed.outcome()
    finally:
        replayed.close()


class Run:
    """One run of a workflow in memory: `start`, `feed` it events, ask its `outcome`, `close` it.

    While the outcome is Waiting it can be kept: tell it the ids of its new steps with `recorded`, and feed what
    happens next. All methods are called from one thread.
    """

    def __init__(self, spec: Spec, record: Record | None = None) -> None:
        record = record or Record()
        self.spec = spec
        self.replayed = len(record.steps)
        """How many recorded steps it had to go through again."""
        self._ledger = Ledger(spec.pipeline, record)
        self._loop = DurableLoop(self._report, self._timer_started, self._timer_cancelled)  # type: ignore[abstract]  # typeshed's view; at run time nothing is
        self._loop.now = timestamp(spec.started_at) if spec.started_at else 0.0
        self._main: DurableTask[Any] | None = None
        self._calls: dict[int, OpenCall] = {}
        self._timers: dict[int, OpenTimer] = {}
        self._inbox: dict[str, asyncio.Queue[tuple[int, Any]]] = defaultdict(asyncio.Queue)
        self._receiving = 0
        self._patches: dict[str, bool] = {}
        self._random: random.Random | None = None
        self._undo: list[tuple[Pipeline[Any, Any], Any]] = []
        self._undoing = self._cancelling = self._ended = False
        self._again: Any = _NOTHING
        self._progress: tuple[float | None, str] | None = None
        self._fatal: BaseException | None = None

    # Driving

    def start(self) -> None:
        """Run the function until it waits, and take it to where its record ends."""
        if self._ledger.defect:
            return
        # An empty context: what this worker has in its own would be another one's at the next replay.
        self._main = self._loop.create_task(self._body(), context=Context())
        self._advance()
        for event in self._ledger.past:
            self._take(event)
        self._ledger.past = []

    async def _body(self) -> Any:
        try:
            return await self.spec.function(self.spec.value, WorkflowContext(self))
        except (Exception, asyncio.CancelledError, SystemExit) as error:
            await self._compensate(error)
            raise

    async def _compensate(self, error: BaseException) -> None:
        """Run what undoes the run's work, last first; all of it, even if some of it fails."""
        self._undoing = True
        failed: StepFailed | None = None
        while self._undo:
            try:
                await self.call(*self._undo.pop())
            except StepFailed as failure:
                failed = failed or failure
        if failed is not None:
            raise failed from error

    def feed(self, events: Iterable[Event], now: datetime | None = None) -> None:
        """Give the workflow what happened, timers that are due by `now` among it, one by one in order of time."""
        events, ids = list(events), self._ledger.ids
        written = {event.index for event in events if isinstance(event, RecordedStep)}
        fired = [
            Fired(ids[index], index, timer.due)
            for index, timer in self._timers.items()
            if index in ids and index not in written and now is not None and timer.due <= now
        ]
        for event in by_time(fired, events):
            self._take(event)

    def _take(self, event: Event | Fired) -> None:
        """Feed one event, and run the workflow until it waits again. After its end it consumes nothing."""
        if self._ended or self._ledger.defect:
            return
        if isinstance(event, RecordedMessage):
            self._consume(event)
            self._deliver(event)
        elif event.index >= self._ledger.called:
            called = self._ledger.called
            self._ledger.impure(f"{_shown(event)} was finished when the code had called only {called} steps")
        elif isinstance(event, RecordedStep):
            self._consume(event)
            self._resolve(event)
        elif event.index in self._timers:  # else an event before it cancelled the timer
            self._consume(event)
            self._fire(event.index)
        self._advance()

    def _consume(self, event: Event | Fired) -> None:
        self._ledger.consume(event)
        if event.at is not None:
            self._loop.now = max(self._loop.now, timestamp(event.at))

    def _deliver(self, message: RecordedMessage) -> None:
        if message.name != CANCEL:
            self._inbox[message.name].put_nowait((message.id, message.value))
        elif not (self._cancelling or self._undoing):
            self._cancelling = True
            assert self._main is not None
            self._main.cancel()

    def _resolve(self, event: RecordedStep) -> None:
        call = self._calls.pop(event.index, None)
        if call is None:
            self._fire(event.index)  # a timer that was done by hand or before; nothing if it was cancelled
            return
        self._ledger.ids.pop(event.index, None)
        if call.deadline is not None:
            call.deadline.cancel()
        if event.error is not None:
            call.future.set_exception(step_failed(event.pipeline, **event.error))
            return
        try:
            call.future.set_result(call.read(event.result))
        except Exception as error:  # the code's type is no longer that of the stored value
            self._ledger.defect = error

    def _fire(self, index: int) -> None:
        timer = self._timers.pop(index, None)
        self._ledger.ids.pop(index, None)
        if timer is not None:
            self._loop.fire(timer.timer)

    def _advance(self) -> None:
        if self._ledger.defect or self._main is None:
            return
        try:
            self._loop.run_until_idle()
        except NotDurable as error:
            self._ledger.defect = error
        except (SystemExit, KeyboardInterrupt) as error:
            self._fatal = error
        if self._fatal or self._main.done():
            self._end()
        self._ledger.catch_up()

    def _end(self) -> None:
        """Let the tasks that are left clean up; what they call no longer counts."""
        self._ended = True
        with suppress(NotDurable, SystemExit, KeyboardInterrupt):
            self._loop.cancel_all()

    def recorded(self, ids: Mapping[int, int]) -> None:
        """The last outcome was written down, its new steps under these ids by index: go on from there."""
        self._ledger.written(ids)
        self._progress = None

    @property
    def open_steps(self) -> Mapping[int, int]:
        """The rows of the steps it waits for, by index."""
        return self._ledger.ids

    def close(self) -> None:
        """Throw the run away: whatever is suspended ends quietly, and no call is made by that."""
        self._loop.discard()
        self._calls.clear()
        self._timers.clear()

    # What the workflow does

    @property
    def _counts(self) -> bool:
        # Where nothing counts any more nothing is raised either, which code could catch and repeat for ever: what it
        # waits for never comes.
        return not (self._ledger.defect or self._ended or self._loop.is_closed())

    @property
    def live(self) -> bool:
        """Whether what happens now happens for the first time, and counts."""
        return not (self._ledger.replaying or self._ledger.defect or self._loop.is_closed())

    def call(
        self, pipeline: Pipeline[Any, Any], value: Any, *, timeout: float | None = None, **options: Any
    ) -> CallFuture:
        """What `ctx.call` does."""
        param = pipeline.input.to_json(value)
        if timeout is not None:
            due_at(self._loop.now + timeout)  # raises before there is a call that nobody holds
        future = CallFuture(self._loop)
        if self._counts:
            new = None if self._ledger.next else Call(pipeline, pipeline.input.check(value), **options)
            index = self._ledger.step(pipeline.id, param, call=new)
            self._wait_for(index, OpenCall(pipeline.output.from_json, future))
            if timeout is not None:
                self._calls[index].deadline = self._loop.call_later(timeout, self._overdue, index, timeout)
        return future

    def _wait_for(self, index: int, call: OpenCall) -> None:
        self._calls[index] = call
        call.future.on_cancel = lambda: self._drop(index)

    def _overdue(self, index: int, timeout: float) -> None:
        call = self._calls.get(index)
        if call is not None:
            self._drop(index)
            call.future.set_exception(TimeoutError(f"step {index} was not done within {timeout:g} s"))

    def _drop(self, index: int) -> None:
        """Nobody waits for this step any more: cancel it."""
        call, timer = self._calls.get(index), self._timers.get(index)
        if self._ended or not (call or timer):
            return
        self._calls.pop(index, None)
        self._timers.pop(index, None)
        self._ledger.drop(index)
        if call is not None and call.deadline is not None:
            call.deadline.cancel()

    def _timer_started(self, timer: DurableTimer) -> None:
        timer.index = -1
        if self._counts:
            due = self._ledger.due(due_at(timer.when()))
            timer.index = self._ledger.step(TIMER, due.isoformat())
            self._timers[timer.index] = OpenTimer(timer, due)

    def _timer_cancelled(self, timer: DurableTimer) -> None:
        self._drop(timer.index)

    async def send(self, workflow: str, key: str, name: str, value: Any) -> None:
        """What `ctx.send` does; `value` is JSON."""
        future = CallFuture(self._loop)
        if self._counts:
            index = self._ledger.step(SEND, {"workflow": workflow, "key": key, "name": name, "value": value})
            self._wait_for(index, OpenCall(lambda result: None, future))
        await future

    async def receive(self, name: str) -> Any:
        """The JSON of the oldest message with this name that was not received yet."""
        self._receiving += 1
        try:
            return (await self._inbox[name].get())[1]
        finally:
            self._receiving -= 1

    def random(self) -> random.Random:
        """The run's own generator: its seed is recorded when it is first used."""
        if self._random is None:
            self._random = random.Random(self._known(RANDOM, None, lambda: secrets.randbits(53)))
        return self._random

    def patched(self, name: str) -> bool:
        """Whether the run may use a change of the code: not if it had passed this place before there was one."""
        if name not in self._patches:
            if self._ledger.replaying:
                self._patches[name] = name in self._ledger.patches
            else:
                self._patches[name] = bool(self._known(PATCH, name, lambda: True))
        return self._patches[name]

    def _known(self, kind: str, param: Any, make: Callable[[], Any]) -> Any:
        return self._ledger.known(kind, param, make) if self._counts else make()

    def compensate(self, pipeline: Pipeline[Any, Any], value: Any) -> None:
        """What `ctx.compensate` does."""
        pipeline.input.to_json(value)
        self._undo.append((pipeline, value))

    def begin_again(self, value: Any) -> NoReturn:
        """What `ctx.continue_as_new` does."""
        checked = self.spec.input.check(value)
        if asyncio.current_task() is not self._main:
            raise NotDurable("ctx.continue_as_new works in the workflow function itself, not in a task it started.")
        self._again = checked
        raise BeginAgain

    def progress(self, fraction: float | None, text: str) -> None:
        """What `ctx.progress` does."""
        if self.live:
            self._progress = fraction, text

    @property
    def now(self) -> datetime:
        """The time of the latest event."""
        return datetime.fromtimestamp(self._loop.now, UTC)

    # Outcome

    def outcome(self) -> Outcome:
        """What the run has come to: new steps, the events consumed, the value or the error."""
        ledger = self._ledger
        if self._ended and ledger.history:
            ledger.impure(f"it ended with {ledger.history} recorded events still to come")
        if ledger.defect:
            return Parked(Failure.of(ledger.defect))
        if self._ended:
            return self._finished()
        if not (self._calls or self._timers or self._receiving):
            return Failed(Failure.of(self._stuck()))
        due = min((timer.due for timer in self._timers.values()), default=None)
        return Waiting(tuple(ledger.new.values()), tuple(ledger.consumed), tuple(ledger.dropped), due, self._progress)

    def _finished(self) -> Done | Continued | Cancelled | Failed:
        assert self._main is not None
        consumed = tuple(self._ledger.consumed)
        try:
            if self._fatal:
                raise self._fatal
            value = self.spec.output.check(self._main.result())
            if self._again is not _NOTHING:
                raise NotDurable(
                    "ctx.continue_as_new was called and its BeginAgain swallowed: let `except BaseException` raise it."
                )
            return Done(value, consumed, bool(self._ledger.dropped or self._ledger.ids))
        except BeginAgain:
            unread = [queue.get_nowait()[0] for queue in self._inbox.values() for _ in range(queue.qsize())]
            return Continued(self._again, consumed, tuple(unread))
        except BaseException as error:  # SystemExit and the like, raised by the workflow, never mean the worker
            if type(error).__name__ == "SynchronousOnlyOperation":
                error.add_note("A workflow cannot use the ORM: load and save in an activity, and await ctx.call(...).")
            if self._cancelling and isinstance(error, asyncio.CancelledError):
                return Cancelled(Failure("CancelledError", "the run was cancelled", ""))
            return Failed(Failure.of(error))

    def _stuck(self) -> NotDurable:
        return NotDurable(
            f"{self.spec.pipeline} waits for something that can never arrive: it has no call, timer or receive "
            "outstanding, and only these wake a workflow. Look for an Event, Future or Queue that nobody fills; await "
            "a ctx.call or ctx.receive."
        )

    def _report(self, context: dict[str, Any]) -> None:
        if not self._ended:
            ReplayLogger(self).error("%s", context["message"], exc_info=context.get("exception"))


_NOTHING: Any = object()


def _shown(event: RecordedStep | Fired) -> str:
    what = f", {shown(event.pipeline, event.param)}," if isinstance(event, RecordedStep) else ", a timer,"
    return f"step {event.index}{what}"
