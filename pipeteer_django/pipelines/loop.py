"""A small deterministic event loop: the same events, fed in the same order, run the same code in the same order.

It has a ready queue, tasks and futures, and nothing that reaches the world outside, so what is built from those alone
(gather, wait, TaskGroup, Event, Queue ...) can be replayed. It runs inside a plain function call, which may be a
callback or a task of another loop.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import sys
import types
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any, NoReturn, TypeVar, TypeVarTuple

from pipeteer_django.exceptions import NotDurable

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
HandleT = TypeVar("HandleT", bound=asyncio.Handle)

logger = logging.getLogger(__name__)

MAX_CALLBACKS = 1_000_000
"""More callbacks than this without waiting: the code polls and never will wait."""

MAX_THROWS = 100
"""How often a coroutine that is being thrown away is told so, before it is set aside."""


class Discarded(BaseException):
    """Raised where code waits while its run is being thrown away.

    No GeneratorExit: Python closes inner coroutines on that one, and complains when they wait again.
    """


class DurableFuture(asyncio.Future[T]):
    """A future that hashes to its creation number: asyncio and users put futures into sets, and iterate over them.

    What `asyncio.gather` returns is none of these: sets should hold tasks and calls.
    """

    __slots__ = ("_number",)

    def __init__(self, *, loop: DurableLoop) -> None:
        self._number = loop.next_number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class DurableTimer(asyncio.TimerHandle):
    """A timer of the future: whoever drives the loop says when its time has come."""

    __slots__ = ("index",)

    index: int
    """The number of its step."""


class DurableTask(asyncio.Task[T]):
    """A task that hashes to its creation number, is named after it, and can be thrown away quietly."""

    def __init__(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        loop: DurableLoop,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> None:
        self._number = loop.next_number()
        self._own_context = copy_context() if context is None else context
        super().__init__(coro, loop=loop, name=name or f"Task-{self._number}", context=self._own_context, **options)

    def __hash__(self) -> int:
        return self._number

    def discard(self) -> None:
        """End the coroutine where it waits, without a word about it."""
        self._log_destroy_pending = False
        if not self.done():
            self._own_context.run(_throw_away, self.get_coro())


def _throw_away(coroutine: Any) -> None:
    # A `finally:` block may wait again, and `except BaseException: pass` goes on to the next: those are told again.
    for _ in range(MAX_THROWS):
        for unstarted in _unstarted(coroutine):
            unstarted.close()
        try:
            coroutine.throw(Discarded())
        except BaseException:
            return
    # It loops around an `except BaseException`. Freeing it would only make Python try the same, aloud.
    _set_aside.append(coroutine)
    logger.warning("%r cannot be ended and stays in memory: let it catch Exception, not BaseException.", coroutine)


_set_aside: list[Any] = []

_CONTAINERS = {list, tuple, dict, set, frozenset, deque, type(iter([])), type(iter(()))}
_HOLDERS = _CONTAINERS | {types.CoroutineType, types.AsyncGeneratorType}


def _unstarted(coroutine: Any) -> Iterator[types.CoroutineType[Any, Any, Any]]:
    """The coroutines that `coroutine` has in hand but has not started: freed as they are, each would warn."""
    seen, todo = {id(coroutine)}, [coroutine]
    while todo:
        for item in gc.get_referents(todo.pop()):
            if type(item) in _HOLDERS and id(item) not in seen:
                seen.add(id(item))
                todo.append(item)
                if type(item) is types.CoroutineType and inspect.getcoroutinestate(item) == inspect.CORO_CREATED:
                    yield item


def _ignore(*args: Any) -> None:
    pass


def _in_as_completed(frame: types.FrameType | None) -> bool:
    while frame is not None and frame.f_globals is vars(asyncio.tasks):
        if frame.f_code.co_qualname in ("as_completed", "_AsCompletedIterator.__init__"):
            return True
        frame = frame.f_back
    return False


class DurableLoop(asyncio.AbstractEventLoop):
    """The event loop of one run of one workflow. Whatever it cannot make durable raises NotDurable."""

    def __init__(
        self,
        on_error: Callable[[dict[str, Any]], object] = _ignore,
        on_timer: Callable[[DurableTimer], object] = _ignore,
        on_timer_cancelled: Callable[[DurableTimer], object] = _ignore,
    ) -> None:
        self.now = 0.0
        """What `time()` says: set by the driver to the time of the latest event."""
        self._on_error, self._on_timer, self._on_timer_cancelled = on_error, on_timer, on_timer_cancelled
        self._ready: deque[asyncio.Handle] = deque()
        self._created = 0
        # Strong references: a pending task or generator collected by the garbage collector would run its `finally:`
        # blocks at a moment that no replay repeats.
        self._tasks: dict[DurableTask[Any], None] = {}
        self._generators: list[AsyncGenerator[Any, Any]] = []
        self._discarded = False

    # Driving

    def run_until_idle(self) -> None:
        """Run what is ready, and what becomes ready by that, until nothing is.

        SystemExit and KeyboardInterrupt raised by a callback come out here, as they do from other loops. Raises
        NotDurable where it does not end.
        """
        with self._entered():
            for _ in range(MAX_CALLBACKS):
                if not self._ready:
                    return
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        raise NotDurable(
            f"The workflow ran {MAX_CALLBACKS:,} callbacks without ever waiting. It polls, as in "
            "`while not ready: await asyncio.sleep(0)`: await the call, an asyncio.Event or a future instead."
        )

    def cancel_all(self) -> None:
        """What `asyncio.run` does at the end: cancel the tasks that are left, then close open async generators."""
        for task in list(self._tasks):
            task.cancel()
        self.run_until_idle()
        for generator in [generator for generator in self._generators if generator.ag_frame]:  # type: ignore[attr-defined]
            self.create_task(generator.aclose())
        self.run_until_idle()

    def discard(self) -> None:
        """End everything that is suspended, quietly; from now on nothing runs and nothing is reported.

        Code that cleans up still gets tasks and futures, so that it ends at its next `await` and nowhere else, but
        they never come.
        """
        self._discarded = True
        self._on_error = self._on_timer_cancelled = _ignore
        self._ready.clear()
        with self._entered():
            for task in list(self._tasks):
                task.discard()
        self._tasks.clear()
        self._generators.clear()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        outer = asyncio._get_running_loop()
        # Since Python 3.14 a thread has one current task, not one per loop: the outer one steps aside.
        task = None if outer is None else asyncio.current_task(outer)
        hooks = sys.get_asyncgen_hooks()
        if outer is not None and task is not None:
            asyncio.tasks._leave_task(outer, task)
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(firstiter=self._keep, finalizer=_ignore)
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(outer)
            if outer is not None and task is not None:
                asyncio.tasks._enter_task(outer, task)

    def _keep(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators = [old for old in self._generators if old.ag_frame]  # type: ignore[attr-defined]
        self._generators.append(generator)

    # What tasks and futures need of their loop

    def next_number(self) -> int:
        """The number of the next task or future: the same in each replay."""
        self._created += 1
        return self._created

    def create_future(self) -> DurableFuture[Any]:
        """A future of this loop."""
        return DurableFuture(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **options: Any
    ) -> DurableTask[Any]:
        """Start `coro`. Raises NotDurable inside `asyncio.as_completed`, which starts bare coroutines in any order."""
        if self._discarded:
            return self._inert_task(coro)
        if _in_as_completed(sys._getframe(1)):
            coro.close()
            raise NotDurable(
                "asyncio.as_completed starts bare coroutines in an arbitrary order, which no replay repeats. "
                "Start them yourself: asyncio.as_completed([asyncio.create_task(c) for c in coroutines])."
            )
        task = DurableTask(coro, loop=self, name=name, context=context, **options)
        if not task.done():
            self._tasks[task] = None
            task.add_done_callback(self._forget)
        return task

    def _inert_task(self, coro: Any) -> DurableTask[Any]:
        # For code that cleans up while it is thrown away: it waits for this, and is told again.
        coro.close()
        task = DurableTask(coro, loop=self)
        task.discard()
        return task

    def _forget(self, task: Any) -> None:
        self._tasks.pop(task, None)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Run `callback` after everything that is ready now."""
        return self._schedule(asyncio.Handle(callback, args, self, context))

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run `callback` soon if `when` is not in the future, else when the driver fires the timer."""
        if when <= self.now or self._discarded:
            return self._schedule(asyncio.TimerHandle(when, callback, args, self, context))
        timer = DurableTimer(when, callback, args, self, context)
        self._on_timer(timer)
        return timer

    def fire(self, timer: DurableTimer) -> None:
        """Its time has come: run its callback when the loop next runs."""
        self._schedule(timer)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """`call_at` so many seconds after `time()`."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def _schedule(self, handle: HandleT) -> HandleT:
        if not self._discarded:
            self._ready.append(handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if isinstance(handle, DurableTimer):
            self._on_timer_cancelled(handle)

    def time(self) -> float:
        """The time of the latest event, in seconds since the epoch: it stands still while code runs."""
        return self.now

    def get_debug(self) -> bool:
        """No: asyncio's debug mode measures real time."""
        return False

    def is_running(self) -> bool:
        """Whether its callbacks run right now."""
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        """Whether it was discarded."""
        return self._discarded

    def get_task_factory(self) -> None:
        """None: tasks are always DurableTasks."""

    def get_exception_handler(self) -> None:
        """None: the driver's handler cannot be replaced."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report what asyncio has nobody to raise to, such as an exception that was never retrieved."""
        self._on_error(context)


_DRIVEN = "The worker drives a workflow's loop, and the loop ends with the workflow. Just await, or return."
_THREADS = "Threads cannot be replayed. Do that in an activity (a sync one runs on a thread and may use the ORM)"
_OTHERWISE = "Only calls of pipelines can be replayed. Do that in an activity"
_REMEDIES = {
    **dict.fromkeys(("run_forever", "run_until_complete", "stop", "close"), _DRIVEN),
    **dict.fromkeys(("run_in_executor", "call_soon_threadsafe", "set_default_executor"), _THREADS),
}


def _refusal(name: str) -> Callable[..., NoReturn]:
    remedy = _REMEDIES.get(name, _OTHERWISE)
    if remedy is not _DRIVEN:
        remedy += " and `await ctx.call(...)` it."

    def refuse(self: DurableLoop, *args: Any, **options: Any) -> NoReturn:
        raise NotDurable(f"A workflow cannot use loop.{name}. {remedy}")

    refuse.__name__ = name
    return refuse


for _name in vars(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(DurableLoop):
        setattr(DurableLoop, _name, _refusal(_name))
