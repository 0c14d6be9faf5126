from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import gc
import itertools
import logging
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeteer_django.exceptions import InvalidValue, NotDurable, StepFailed
from pipeteer_django.pipelines import loop as loop_module
from pipeteer_django.pipelines import replay as replay_module
from pipeteer_django.pipelines.outcome import Call, Consumed, Done, Failed, NewStep, Parked, Waiting
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import CANCEL, KNOWN, TIMER, Record, RecordedMessage, RecordedStep, due_of
from pipeteer_django.pipelines.replay import Outcome, Run, Spec, run
from pipeteer_django.pipelines.valuetype import ValueType
from pipeteer_django.pipelines.workflowcontext import WorkflowContext

pytestmark = pytest.mark.once

START = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass
class Fake:
    """What replay needs of a pipeline, without a table."""

    id: str
    input: ValueType
    output: ValueType


INT, ANY = ValueType.of(int), ValueType.of(Any)
double: Pipeline[int, int] = Fake("double", INT, INT)  # type: ignore[assignment]
halve: Pipeline[int, int] = Fake("halve", INT, INT)  # type: ignore[assignment]
nothing: Any = Fake("nothing", ValueType.of(None), ValueType.of(None))

Workflow = Callable[[Any, WorkflowContext], Coroutine[Any, Any, Any]]


class History:
    """A workflow and its rows, in memory: settles outcomes as the queues do, and replays from the beginning."""

    def __init__(self, function: Workflow, value: Any = 0, output: ValueType = ANY, **messages: ValueType) -> None:
        self.function, self.value, self.output, self.messages = function, value, output, messages
        self.record = Record()
        self.outcome: Outcome = Waiting()
        self.clock = itertools.count(1)
        self.now = START

    @property
    def steps(self) -> list[RecordedStep]:
        return self.record.steps

    @property
    def spec(self) -> Spec:
        return Spec(
            function=self.function,
            value=self.value,
            pipeline="flow",
            key="k",
            run_id=1,
            input=ANY,
            output=self.output,
            messages=self.messages,
            started_at=START,
        )

    def replay(self) -> Outcome:
        return run(self.spec, Record(list(self.steps), list(self.record.messages)), self.now)

    def warm(self) -> Run:
        """A run that is kept, at its first suspension."""
        warm = Run(self.spec)
        warm.start()
        return warm

    def turn(self) -> Outcome:
        """Run it, and write down what the outcome says."""
        self.outcome = self.replay()
        self.settle(self.outcome)
        return self.outcome

    def settle(self, outcome: Outcome) -> dict[int, int]:
        for consumed in getattr(outcome, "consumed", ()):
            if consumed.message:
                number = next(n for n, message in enumerate(self.record.messages) if message.id == consumed.id)
                taken = dataclasses.replace(self.record.messages[number], order=consumed.order)
                self.record.messages[number] = taken
            else:
                fired = {"done_at": consumed.fired_at} if consumed.fired_at else {}
                self.change(self.index_of(consumed.id), order=consumed.order, **fired)
        for step_id in getattr(outcome, "cancelled", ()):
            self.change(self.index_of(step_id), cancelled_at=START)
        new = [recorded(step) for step in getattr(outcome, "steps", ())]
        self.steps.extend(new)
        return {step.index: step.id for step in new}

    def index_of(self, step_id: int) -> int:
        return next(step.index for step in self.steps if step.id == step_id)

    def change(self, index: int, **columns: Any) -> RecordedStep:
        self.steps[index] = dataclasses.replace(self.steps[index], **columns)
        return self.steps[index]

    def finish(self, index: int, result: Any = None, error: str | None = None) -> RecordedStep:
        """The child of a step has ended."""
        failure = {"type": "ValueError", "message": error, "traceback": "Traceback ..."} if error else None
        return self.change(index, result=result, error=failure, done_at=self.tick())

    def send(self, name: str, value: Any = None) -> RecordedMessage:
        """A message arrives."""
        message = RecordedMessage(500 + len(self.record.messages), name, value, self.tick(), None)
        self.record.messages.append(message)
        return message

    def tick(self) -> datetime:
        """A second passes."""
        self.now = max(self.now, START + timedelta(seconds=next(self.clock)))
        return self.now

    def wait_for_timer(self) -> None:
        """Time passes until the next timer is due."""
        due = min(due_of(step) for step in self.steps if step.pipeline == TIMER and is_open(step))
        self.now = max(self.now, due)

    @property
    def open(self) -> list[int]:
        """The calls whose children are under way."""
        return [step.index for step in self.steps if step.pipeline != TIMER and is_open(step)]

    def calls(self) -> list[tuple[str, Any]]:
        return [(step.pipeline, step.param) for step in self.steps]

    def play(self, results: Callable[[RecordedStep], Any] = lambda step: 2 * step.param) -> Outcome:
        """Finish the oldest open step, until the workflow ends."""
        while isinstance(self.turn(), Waiting):
            if self.open:
                step = self.steps[self.open[0]]
                self.finish(step.index, results(step))
            else:
                self.wait_for_timer()
        return self.outcome


def is_open(step: RecordedStep) -> bool:
    return step.done_at is None and step.cancelled_at is None


def recorded(step: NewStep) -> RecordedStep:
    return RecordedStep(
        id=100 + step.index,
        index=step.index,
        pipeline=step.pipeline,
        param=step.param,
        child_id=None,
        result=step.result,
        error=None,
        done_at=START if step.known else None,
        cancelled_at=START if step.cancelled else None,
        order=KNOWN if step.known else None,
    )


def called(index: int, pipeline: Any, value: Any, param: Any, after: int = 0, **options: Any) -> NewStep:
    return NewStep(index, pipeline.id, param, after, Call(pipeline, value, **options))


def value_of(outcome: Outcome) -> Any:
    assert isinstance(outcome, Done), outcome
    return outcome.value


def failure_of(outcome: Outcome, kind: type[Any] = Failed) -> tuple[str, str]:
    assert isinstance(outcome, kind), outcome
    return outcome.failure.type_name, outcome.failure.message


@pytest.fixture
def silence(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails the test if Python complains about anything that cannot be raised, or if anything is printed."""
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    yield
    gc.collect()
    assert complaints == []
    assert capfd.readouterr() == ("", "")


async def quad(x: int, ctx: WorkflowContext) -> int:
    x2 = await ctx.call(double, x)
    return await ctx.call(double, x2)


class TestOutcomes:
    def test_one_step_after_the_other(self) -> None:
        history = History(quad, 3)
        assert history.turn() == Waiting((called(0, double, 3, 3),))
        history.finish(0, 6)
        assert history.turn() == Waiting((called(1, double, 6, 6, after=1),), consumed=(Consumed(100, 1),))
        history.finish(1, 12)
        assert history.turn() == Done(12, consumed=(Consumed(101, 2),))

    def test_a_wake_without_an_event_changes_nothing(self) -> None:
        history = History(quad, 3)
        history.turn()
        assert history.turn() == Waiting()

    def test_no_call_at_all(self) -> None:
        async def now(x: int, ctx: WorkflowContext) -> int:
            return x + 1

        assert History(now, 1).turn() == Done(2)

    def test_none_is_a_value(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> None:
            assert await ctx.call(nothing) is None

        assert History(main).play(lambda step: None) == Done(None, consumed=(Consumed(100, 1),))

    def test_the_returned_value_is_checked(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> str:
            return "many"

        assert failure_of(History(main, output=INT).turn())[0] == "InvalidValue"

    def test_new_events_are_fed_by_time_and_id(self) -> None:
        seen: list[int] = []

        async def main(x: int, ctx: WorkflowContext) -> list[int]:
            calls = [ctx.call(double, number) for number in range(4)]
            for call in asyncio.as_completed(calls):
                seen.append(await call)
            return seen

        history = History(main)
        history.turn()
        late = START + timedelta(days=1)
        for index in (0, 1):
            history.change(index, result=index, done_at=late)
        history.finish(3, 3)
        history.finish(2, 2)
        outcome = history.turn()
        assert seen == [3, 2, 0, 1]
        assert value_of(outcome) == seen
        assert outcome == Done(seen, tuple(Consumed(100 + index, 1 + at) for at, index in enumerate(seen)))

    def test_steps_left_open_are_named_and_dropped_calls_are_not(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> int:
            first, second = ctx.call(double, 1), ctx.call(double, 2)
            await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
            ctx.call(double, 3)
            return 0

        history = History(main)
        history.turn()
        history.finish(1, 4)
        outcome = history.turn()
        assert isinstance(outcome, Done)
        assert outcome.leaves_open

    def test_an_uncaught_exception_fails(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> None:
            await asyncio.sleep(0)
            ctx.call(double, 1)
            raise ValueError("no")

        outcome = History(main).turn()
        assert failure_of(outcome) == ("ValueError", "no")
        assert isinstance(outcome, Failed)
        assert "in main" in outcome.failure.traceback

    @pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
    @pytest.mark.parametrize("in_task", [False, True])
    def test_no_exception_reaches_the_worker(self, error: BaseException, in_task: bool) -> None:
        async def fail() -> None:
            await asyncio.sleep(0)
            raise error

        async def main(x: int, ctx: WorkflowContext) -> None:
            await (asyncio.create_task(fail()) if in_task else fail())

        assert failure_of(History(main).turn())[0] == type(error).__name__

    def test_an_exception_class_of_the_users(self) -> None:
        class Alarm(BaseException):
            pass

        async def main(x: int, ctx: WorkflowContext) -> None:
            await ctx.call(double, 1)
            raise Alarm("fire")

        assert failure_of(History(main).play()) == ("Alarm", "fire")

    def test_waiting_for_what_never_comes(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> None:
            await ctx.call(double, 1)
            await asyncio.Event().wait()

        name, message = failure_of(History(main).play())
        assert name == "NotDurable"
        assert "never arrive" in message
        assert "ctx.call" in message

    def test_polling_parks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loop_module, "MAX_CALLBACKS", 1000)

        async def main(x: int, ctx: WorkflowContext) -> None:
            call = ctx.call(double, 1)
            while not call.done():
                await asyncio.sleep(0)

        assert failure_of(History(main).turn(), Parked)[0] == "NotDurable"

    def test_a_stored_result_that_no_longer_fits_parks(self) -> None:
        history = History(quad, 1)
        history.turn()
        history.finish(0, "two")
        assert failure_of(history.turn(), Parked)[0] == "InvalidValue"

    def test_not_durable_is_an_ordinary_exception(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> str:
            with pytest.raises(NotDurable):
                asyncio.get_running_loop().add_signal_handler(1, print)
            await asyncio.to_thread(print)
            return "unreached"

        assert failure_of(History(main).turn())[0] == "NotDurable"

    def test_time_is_that_of_the_latest_event(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> list[float]:
            clock = asyncio.get_running_loop().time
            times = [clock()]
            for number in range(2):
                await ctx.call(double, number)
                times.append(clock())
            return times

        assert value_of(History(main).play()) == [START.timestamp() + seconds for seconds in range(3)]


class TestCalls:
    def test_a_step_failed(self) -> None:
        caught: list[StepFailed] = []

        async def saga(x: int, ctx: WorkflowContext) -> int:
            try:
                return await ctx.call(double, x)
            except StepFailed as error:
                caught.append(error)
                return await ctx.call(halve, x)

        history = History(saga, 4)
        history.turn()
        history.finish(0, error="broken")
        history.turn()
        history.finish(1, 2)
        assert value_of(history.turn()) == 2
        error = caught[-1]
        assert (error.pipeline, error.type_name, error.message) == ("double", "ValueError", "broken")
        assert error.traceback == "Traceback ..."

    def test_uncaught_it_fails_the_workflow(self) -> None:
        history = History(quad, 4)
        history.turn()
        history.finish(0, error="broken")
        assert failure_of(history.turn()) == ("StepFailed", "double: ValueError: broken")

    def test_numbered_when_called_not_when_awaited(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> list[int]:
            first, second = ctx.call(double, 1), ctx.call(halve, 2)
            return [await second, await first]

        history = History(main)
        history.turn()
        assert history.calls() == [("double", 1), ("halve", 2)]

    def test_several_can_wait_for_one_call(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> list[int]:
            call = ctx.call(double, 1)

            async def wait() -> int:
                return await call

            return [*await asyncio.gather(wait(), wait(), call), await call]

        assert value_of(History(main).play()) == [2, 2, 2, 2]

    def test_a_value_that_does_not_fit_is_refused_at_the_call(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> int:
            with pytest.raises(InvalidValue):
                ctx.call(double, "many")  # type: ignore[misc]
            return await ctx.call(double, 1)

        history = History(main)
        assert value_of(history.play()) == 2
        assert history.calls() == [("double", 1)]

    @pytest.mark.parametrize(
        ("wrong", "remedy"),
        [
            (lambda: quad(1, None), r"ctx.call\(quad, x\), not ctx.call\(quad\(x\)\)"),  # type: ignore[arg-type]
            (lambda: quad, "quad, which is no pipeline. Decorate it with @pipeteer.activity"),
            (lambda: 7, "ctx.call cannot call 7"),
        ],
    )
    def test_only_pipelines_can_be_called(self, wrong: Callable[[], Any], remedy: str) -> None:
        async def main(x: int, ctx: WorkflowContext) -> int:
            with pytest.raises(TypeError, match=remedy):
                ctx.call(wrong())
            return 1

        assert value_of(History(main).turn()) == 1

    def test_identity(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> list[Any]:
            return [ctx.key, ctx.run_id]

        assert value_of(History(main).turn()) == ["k", 1]

    def test_all(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> list[Any]:
            a, b = await ctx.all(ctx.call(double, 1), ctx.call(double, 2))
            many = await ctx.all(*(ctx.call(double, number) for number in range(4)))
            return [a, b, *many, *await ctx.all()]

        assert value_of(History(main).play()) == [2, 4, 0, 2, 4, 6]

    def test_all_with_failures(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> list[str]:
            results = await ctx.all(ctx.call(double, 1), ctx.call(double, 2), return_exceptions=True)
            return [str(result) for result in results]

        history = History(main)
        history.turn()
        history.finish(0, error="broken")
        history.finish(1, 4)
        assert value_of(history.turn()) == ["double: ValueError: broken", "4"]

    def test_all_takes_no_list(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> None:
            await ctx.all([ctx.call(double, 1)])  # type: ignore[call-overload]

        assert failure_of(History(main).turn()) == (
            "TypeError",
            "ctx.all takes calls, not list: write ctx.all(*calls).",
        )


class TestAsyncio:
    def test_gather_of_nested_coroutines(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> list[int]:
            return await asyncio.gather(*(quad(number, ctx) for number in range(3)))

        history = History(main)
        assert value_of(history.play()) == [0, 4, 8]
        assert [param for _, param in history.calls()] == [0, 1, 2, 0, 2, 4]

    def test_wait_first_completed(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> list[Any]:
            calls = [ctx.call(double, number) for number in range(5)]
            done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            for call in pending:
                call.cancel()
            return [[calls.index(call) for call in group] for group in (done, pending)]

        history = History(main)
        history.turn()
        history.finish(3, 6)
        outcome = history.turn()
        assert value_of(outcome) == [[3], [0, 1, 2, 4]]
        assert isinstance(outcome, Done)
        assert outcome.leaves_open

    def test_a_failing_child_cancels_its_task_group(self) -> None:
        seen: list[str] = []

        async def main(x: int, ctx: WorkflowContext) -> str:
            async def child(number: int) -> None:
                try:
                    await ctx.call(double, number)
                except asyncio.CancelledError:
                    seen.append(f"cancelled {number}")
                    raise

            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(3):
                        group.create_task(child(number))
            except* StepFailed as errors:
                seen.append(str(errors.exceptions[0]))
            return "after"

        history = History(main)
        history.turn()
        history.finish(1, error="broken")
        outcome = history.turn()
        assert value_of(outcome) == "after"
        assert seen == ["cancelled 0", "cancelled 2", "double: ValueError: broken"]

    def test_a_result_that_crosses_its_cancellation_is_not_taken(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> int:
            loser, winner = ctx.call(double, 1), ctx.call(double, 2)
            await winner
            loser.cancel()
            return await ctx.call(double, 3)

        history = History(main)
        history.turn()
        history.finish(1, 4)
        history.turn()
        history.finish(0, 2)
        assert history.turn() == Waiting()
        history.finish(2, 6)
        assert value_of(history.turn()) == 6

    def test_shield(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> int:
            call = ctx.call(double, 1)
            task = asyncio.ensure_future(asyncio.shield(call))
            await ctx.call(double, 2)
            task.cancel()
            return await call

        assert value_of(History(main).play(lambda step: 2 * step.param)) == 2

    def test_events_locks_queues_and_semaphores_between_tasks(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> list[int]:
            queue: asyncio.Queue[int] = asyncio.Queue()
            limit, lock, full = asyncio.Semaphore(2), asyncio.Lock(), asyncio.Event()

            async def work(number: int) -> None:
                async with limit:
                    result = await ctx.call(double, number)
                async with lock:
                    await queue.put(await ctx.call(halve, result))
                if queue.qsize() == 4:
                    full.set()

            async with asyncio.TaskGroup() as group:
                for number in range(4):
                    group.create_task(work(number))
                await full.wait()
            return [queue.get_nowait() for _ in range(4)]

        history = History(main)
        history.turn()
        assert history.open == [0, 1]
        assert value_of(history.play()) == [0, 4, 8, 12]
        assert sorted(param for name, param in history.calls() if name == "double") == [0, 1, 2, 3]

    def test_contextvars_follow_tasks(self) -> None:
        depth: contextvars.ContextVar[int] = contextvars.ContextVar("depth", default=0)
        depth.set(99)

        async def main(x: int, ctx: WorkflowContext) -> list[int]:
            async def child(number: int) -> int:
                depth.set(depth.get() + number)
                await ctx.call(double, number)
                return depth.get()

            before = depth.get()
            depth.set(10)
            results = await asyncio.gather(*(asyncio.create_task(child(number)) for number in range(3)))
            return [before, *results, depth.get()]

        assert value_of(History(main).play()) == [0, 10, 11, 12, 10]
        assert depth.get() == 99

    def test_tasks_left_over_are_cancelled_and_clean_up(self) -> None:
        seen: list[str] = []

        async def main(x: int, ctx: WorkflowContext) -> int:
            async def background() -> None:
                try:
                    await ctx.call(double, 1)
                finally:
                    await asyncio.sleep(0)
                    seen.append("cleaned up")
                    await ctx.call(double, 2)
                    seen.append("never")

            asyncio.create_task(background())  # noqa: RUF006
            return await ctx.call(double, 3)

        history = History(main)
        history.turn()
        history.finish(0, 6)
        seen.clear()
        outcome = history.turn()
        assert seen == ["cleaned up"]
        assert isinstance(outcome, Done)
        assert outcome.leaves_open

    def test_inside_a_task_of_another_loop(self) -> None:
        async def outer() -> Any:
            value = History(quad, 1).play()
            await asyncio.sleep(0.001)
            return value_of(value)

        assert asyncio.run(outer()) == 4


class TestWarm:
    def test_a_run_that_is_kept_goes_on_where_it_is(self) -> None:
        starts: list[int] = []

        async def main(x: int, ctx: WorkflowContext) -> int:
            starts.append(x)
            first, second = ctx.call(double, x), ctx.call(double, x)
            return await ctx.call(double, await first + await second)

        history = History(main, 3)
        warm = history.warm()
        warm.recorded(history.settle(warm.outcome()))
        for index in (1, 0):
            warm.feed([history.finish(index, 6)])
        outcome = warm.outcome()
        assert outcome == Waiting((called(2, double, 12, 12, after=2),), consumed=(Consumed(101, 1), Consumed(100, 2)))
        warm.recorded(history.settle(outcome))
        assert warm.outcome() == Waiting()
        warm.feed([history.finish(2, 24)])
        assert warm.outcome() == Done(24, consumed=(Consumed(102, 3),))
        warm.close()
        assert starts == [3]

    def test_steps_open_at_its_end_are_named(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> int:
            ctx.call(double, 1)
            return await ctx.call(double, 2)

        history = History(main)
        warm = history.warm()
        warm.recorded(history.settle(warm.outcome()))
        warm.feed([history.finish(1, 4)])
        assert warm.outcome() == Done(4, consumed=(Consumed(101, 1),), leaves_open=True)
        warm.close()


class TestImpurity:
    """Every way in which the code may differ from its record. `before` recorded it, `after` is what runs now."""

    @pytest.fixture
    def history(self) -> History:
        """quad(3) with its first step consumed and its second outstanding."""
        history = History(quad, 3)
        history.turn()
        history.finish(0, 6)
        history.turn()
        return history

    def parked(self, history: History, after: Workflow) -> str:
        history.function = after
        name, message = failure_of(history.turn(), Parked)
        assert name == "ImpureWorkflow"
        assert message.startswith("flow does not repeat its record: ")
        assert "restart the run" in message
        return message

    def test_another_pipeline(self, history: History) -> None:
        async def after(x: int, ctx: WorkflowContext) -> int:
            return await ctx.call(double, await ctx.call(halve, x))

        message = self.parked(history, after)
        assert "step 0 was recorded as double(3), and the code now calls halve(3) at " in message
        assert f"{__file__}:{after.__code__.co_firstlineno + 1}" in message

    def test_another_argument(self, history: History) -> None:
        async def after(x: int, ctx: WorkflowContext) -> int:
            return await ctx.call(double, await ctx.call(double, x) + 1)

        assert "step 1 was recorded as double(6), and the code now calls double(7)" in self.parked(history, after)

    def test_fewer_calls(self, history: History) -> None:
        async def after(x: int, ctx: WorkflowContext) -> int:
            return await ctx.call(double, x)

        assert "step 1 was recorded as double(6), and the code no longer makes" in self.parked(history, after)

    def test_an_event_of_a_step_not_called_yet(self, history: History) -> None:
        history.change(0, order=2)
        history.finish(1, 12)
        history.change(1, order=1)
        assert "step 1, double(6), was finished when the code had called only 1" in self.parked(history, quad)

    def test_another_call_before_the_record_is_over(self, history: History) -> None:
        async def after(x: int, ctx: WorkflowContext) -> int:
            ctx.call(double, x)
            ctx.call(double, 6)
            return await ctx.call(halve, 1)

        assert "its record ends with step 1, and before all" in self.parked(history, after)

    def test_an_end_before_the_record_is_over(self, history: History) -> None:
        async def after(x: int, ctx: WorkflowContext) -> int:
            ctx.call(double, x)
            ctx.call(double, 6)
            return 1

        assert "it ended with 1 recorded events still to come" in self.parked(history, after)

    def test_a_missing_step(self, history: History) -> None:
        del history.steps[0]
        assert "step 0 is missing" in failure_of(history.turn(), Parked)[1]

    def test_an_impurity_cannot_be_caught(self, history: History) -> None:
        async def after(x: int, ctx: WorkflowContext) -> int:
            while True:
                try:
                    await ctx.call(halve, x)
                except Exception:
                    continue
                return 1

        self.parked(history, after)

    def test_the_first_difference_is_told(self, history: History) -> None:
        async def after(x: int, ctx: WorkflowContext) -> int:
            return sum(await asyncio.gather(ctx.call(halve, 1), ctx.call(halve, 2)))

        assert "step 0" in self.parked(history, after)

    def test_chance_is_caught(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> int:
            return await ctx.call(double, random.getrandbits(60)) + await ctx.call(double, 1)

        history = History(main)
        history.turn()
        history.finish(0, 1)
        assert failure_of(history.turn(), Parked)[0] == "ImpureWorkflow"

    def test_json_that_a_database_writes_otherwise_is_no_difference(self) -> None:
        anything: Any = Fake("anything", ANY, ANY)
        given = {"b": [1e16, -0.0, 2.0], "a": ("x", None)}

        async def main(x: int, ctx: WorkflowContext) -> Any:
            return await ctx.call(anything, given)

        history = History(main)
        history.turn()
        history.change(0, param={"a": ["x", None], "b": [10**16, 0, 2]})
        assert history.turn() == Waiting()

    def test_more_calls_after_the_record_are_no_difference(self, history: History) -> None:
        async def after(x: int, ctx: WorkflowContext) -> int:
            result = await quad(x, ctx)
            return await ctx.call(double, result)

        history.function = after
        assert value_of(history.play()) == 24


@pytest.mark.usefixtures("silence")
class TestSilence:
    """Whatever a suspended workflow holds, replaying it leaves no trace."""

    def check(self, main: Workflow) -> None:
        history = History(main)
        for _ in range(3):
            outcome = history.turn()
            gc.collect()
        assert outcome == Waiting()
        assert len(history.steps) == 1

    def test_finally_that_calls(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> None:
            try:
                await ctx.call(double, 1)
            finally:
                ctx.call(double, 2)
                await ctx.call(double, 3)

        self.check(main)

    def test_swallowing_everything(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> None:
            for number in range(5):
                try:
                    await ctx.call(double, number)
                except BaseException:
                    pass

        self.check(main)

    def test_async_generators_and_context_managers(self) -> None:
        async def numbers(ctx: WorkflowContext) -> AsyncIterator[int]:
            try:
                yield await ctx.call(double, 1)
            except BaseException:
                yield await ctx.call(double, 2)
            finally:
                await ctx.call(double, 3)

        async def main(x: int, ctx: WorkflowContext) -> None:
            async with asyncio.Lock():
                async for number in numbers(ctx):
                    await ctx.call(double, number)

        self.check(main)

    def test_helpers_not_started_yet(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> None:
            for helper in [quad(number, ctx) for number in range(5)]:
                await helper

        self.check(main)

    def test_a_tree_of_tasks(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> None:
            call = ctx.call(double, 1)

            async def child() -> None:
                try:
                    await call
                finally:
                    await asyncio.create_task(quad(1, ctx))

            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(child())
                await asyncio.shield(asyncio.gather(child(), child()))

        self.check(main)

    def test_failures_that_nobody_looks_at(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> int:
            ctx.call(double, 1)
            return await ctx.call(double, 2)

        history = History(main)
        history.turn()
        history.finish(0, error="ignored")
        history.turn()
        history.turn()
        history.finish(1, 4)
        assert value_of(history.turn()) == 4

    def test_a_context_that_outlives_its_run(self) -> None:
        contexts: list[WorkflowContext] = []

        async def main(x: int, ctx: WorkflowContext) -> int:
            contexts.append(ctx)
            return 1

        History(main).turn()
        assert not contexts[0].call(double, 1).done()


class TestLog:
    def test_each_line_once(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main(x: int, ctx: WorkflowContext) -> None:
            ctx.log.info("started")
            for number in range(2):
                result = await ctx.call(double, number)
                ctx.log.info("got %s", result)
            try:
                await ctx.call(double, 3)
            finally:
                ctx.log.info("left")

        caplog.set_level(logging.INFO)
        history = History(main)
        history.turn()
        history.turn()
        history.play()
        lines = ["[k] started", "[k] got 0", "[k] got 2", "[k] left"]
        assert [record.getMessage() for record in caplog.records] == lines
        assert {record.name for record in caplog.records} == {"pipeteer_django.flow"}

    def test_an_error_that_nobody_retrieves_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main(x: int, ctx: WorkflowContext) -> int:
            ctx.call(double, 1)
            return await ctx.call(double, 2)

        history = History(main)
        history.turn()
        history.finish(0, error="ignored")
        for _ in range(3):
            history.turn()
            gc.collect()
        assert [record.getMessage() for record in caplog.records] == ["[k] CallFuture exception was never retrieved"]


# Random workflows


@dataclass(frozen=True)
class Node:
    """A piece of a random workflow: `kind` says how `parts` are run."""

    kind: str
    parts: tuple[Node, ...] = ()
    value: int = 0

    async def run(self, ctx: WorkflowContext) -> Any:
        return await getattr(self, self.kind)(ctx)

    async def call(self, ctx: WorkflowContext) -> Any:
        return await ctx.call(double, self.value)

    async def sequence(self, ctx: WorkflowContext) -> Any:
        total = 0
        for part in self.parts:
            total += await part.run(ctx)
        # What was learnt goes into the next call, so that a wrong order shows.
        return await ctx.call(halve, total)

    async def gather(self, ctx: WorkflowContext) -> Any:
        return sum(await asyncio.gather(*(part.run(ctx) for part in self.parts)))

    async def group(self, ctx: WorkflowContext) -> Any:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part.run(ctx)) for part in self.parts]
        except* StepFailed as errors:
            failures = len(errors.exceptions)
        else:
            return sum(task.result() for task in tasks)
        return await ctx.call(halve, 1000 + failures)

    async def first(self, ctx: WorkflowContext) -> Any:
        tasks = [asyncio.create_task(part.run(ctx)) for part in self.parts]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        total = await ctx.call(halve, len(done))
        for task in done:
            total = await ctx.call(halve, total + task.result())
        return total

    async def in_completion_order(self, ctx: WorkflowContext) -> Any:
        total = 1
        for task in asyncio.as_completed([asyncio.create_task(part.run(ctx)) for part in self.parts]):
            result = await task
            total = await ctx.call(halve, total) + result
        return total

    async def rescue(self, ctx: WorkflowContext) -> Any:
        try:
            return sum([await part.run(ctx) for part in self.parts])
        except StepFailed as error:
            return await ctx.call(double, len(str(error)))
        finally:
            await ctx.call(halve, 7)

    async def race(self, ctx: WorkflowContext) -> Any:
        try:
            return await ctx.call(halve, await ctx.any(*(part.run(ctx) for part in self.parts)))
        except StepFailed as error:
            return len(str(error))

    async def nap(self, ctx: WorkflowContext) -> Any:
        before = ctx.now()
        await ctx.sleep(self.value)
        return await ctx.call(halve, int((ctx.now() - before).total_seconds()) + sum(self.among(ctx)))

    def among(self, ctx: WorkflowContext) -> list[int]:
        return [ctx.random.randrange(100), ctx.uuid().int % 7]

    async def hurry(self, ctx: WorkflowContext) -> Any:
        try:
            async with asyncio.timeout(self.value / 3):
                return sum([await part.run(ctx) for part in self.parts])
        except TimeoutError:
            return await ctx.call(double, self.value)

    async def overdue(self, ctx: WorkflowContext) -> Any:
        try:
            return await ctx.call(double, self.value, timeout=self.value / 9)
        except TimeoutError:
            return 1

    async def mail(self, ctx: WorkflowContext) -> Any:
        try:
            return await ctx.receive("mail", int, timeout=self.value)
        except TimeoutError:
            return await ctx.call(halve, self.value)

    async def spread(self, ctx: WorkflowContext) -> Any:
        results = await ctx.map(double, range(self.value % 7), limit=2, return_exceptions=True)
        return sum(result for result in results if isinstance(result, int))

    async def everything(self, ctx: WorkflowContext) -> Any:
        results = await ctx.all(*(part.run(ctx) for part in self.parts), return_exceptions=True)
        return sum(result for result in results if isinstance(result, int))


KINDS = ("sequence", "gather", "group", "first", "in_completion_order", "rescue", "everything", "race", "hurry")
LEAVES = ("call", "call", "call", "nap", "overdue", "mail", "spread")
calls = st.builds(Node, kind=st.sampled_from(LEAVES), value=st.integers(0, 99))


def trees(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    parts = st.lists(inner, min_size=1, max_size=4).map(tuple)
    return st.builds(Node, kind=st.sampled_from(KINDS), parts=parts, value=st.integers(0, 99))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tree=st.recursive(calls, trees, max_leaves=12),
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 3),
    cancel=st.none() | st.integers(1, 12),
)
def test_a_replay_repeats_the_run_that_was_never_interrupted(
    monkeypatch: pytest.MonkeyPatch, tree: Node, seed: int, batch: int, cancel: int | None
) -> None:
    """Random children end in random order, timers fire, messages come; the run kept in memory and the replays must
    never differ, wherever a crash puts the latter."""
    chance = random.Random(seed)

    # What a run that crashed drew before it was written down is drawn anew: here it must be the same to be compared.
    monkeypatch.setattr(replay_module.secrets, "randbits", lambda bits: seed)

    async def main(value: int, ctx: WorkflowContext) -> Any:
        ctx.compensate(halve, 3)
        try:
            return await tree.run(ctx)
        finally:
            await ctx.call(double, 5)

    history = History(main)
    warm = history.warm()
    for turn in range(10_000):
        outcome = warm.outcome()
        # A traceback also shows the frames of whoever drove the loop: those differ, the error does not.
        assert comparable(history.replay()) == comparable(outcome)
        warm.recorded(history.settle(outcome))
        if not isinstance(outcome, Waiting):
            break
        if outcome.due is None or outcome.due > history.now:
            assert comparable(history.replay()) == Waiting(due=outcome.due)
        events: list[Any] = []
        if history.open:
            for index in chance.sample(history.open, min(batch, len(history.open))):
                failed = chance.random() < 0.2
                events.append(history.finish(index, chance.randrange(100), error="no luck" if failed else None))
        if chance.random() < 0.2:
            events.append(history.send("mail", chance.randrange(100)))
        if turn == cancel:
            events.append(history.send(CANCEL))
        if outcome.due and (not events or chance.random() < 0.3):
            history.wait_for_timer()
        warm.feed(events, history.now)
    else:
        raise AssertionError("It does not come to an end.")
    warm.close()


def comparable(outcome: Outcome) -> Any:
    if isinstance(outcome, Failed):
        return outcome.failure.type_name, outcome.failure.message
    assert not isinstance(outcome, Parked), outcome
    return outcome


class TestSize:
    def test_a_thousand_calls_at_once_out_of_order(self) -> None:
        async def main(x: int, ctx: WorkflowContext) -> list[Any]:
            calls = [ctx.call(double, number) for number in range(1000)]
            return [str(result) for result in await ctx.all(*calls, return_exceptions=True)]

        history = History(main)
        history.turn()
        for index in random.Random(1).sample(range(1000), 1000):
            history.finish(index, 2 * index, error="odd" if index % 7 == 0 else None)
        expected = ["double: ValueError: odd" if index % 7 == 0 else str(2 * index) for index in range(1000)]
        assert value_of(history.turn()) == expected

    @pytest.mark.parametrize(("count", "seconds"), [(1000, 1.0), (5000, 5.0)])
    def test_many_steps_one_after_the_other(self, count: int, seconds: float) -> None:
        async def main(x: int, ctx: WorkflowContext) -> int:
            total = 0
            for number in range(count):
                total += await ctx.call(double, number)
            return total

        history = History(main)
        warm = history.warm()
        for index in range(count):
            warm.recorded(history.settle(warm.outcome()))
            warm.feed([history.finish(index, 1)])
        assert value_of(warm.outcome()) == count
        warm.close()
        for index, step in enumerate(history.steps):
            history.change(index, order=step.order or index + 1)
        started = time.perf_counter()
        assert value_of(history.turn()) == count
        # Generous: it is a few hundredths of a second per thousand steps, and must not grow with their square.
        assert time.perf_counter() - started < seconds
