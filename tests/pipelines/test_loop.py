from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from pipeteer_django.exceptions import NotDurable
from pipeteer_django.pipelines import loop as loop_module
from pipeteer_django.pipelines.loop import MAX_THROWS, DurableLoop, DurableTask, DurableTimer

pytestmark = pytest.mark.once

Main = Callable[[], Coroutine[Any, Any, Any]]


@pytest.fixture
def loop() -> DurableLoop:
    return DurableLoop()  # type: ignore[abstract]


@pytest.fixture
def silence(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails the test if Python complains about anything that cannot be raised, or if anything is printed."""
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    yield
    gc.collect()
    assert complaints == []
    assert capfd.readouterr() == ("", "")


def drive(loop: DurableLoop, main: Main) -> DurableTask[Any]:
    task = loop.create_task(main(), context=contextvars.Context())
    loop.run_until_idle()
    return task


def result_of(loop: DurableLoop, main: Main) -> Any:
    task = drive(loop, main)
    assert task.done()
    return task.result()


class TestTimers:
    @pytest.fixture
    def timers(self) -> list[DurableTimer]:
        return []

    @pytest.fixture
    def loop(self, timers: list[DurableTimer]) -> DurableLoop:
        """A loop whose timers the test fires."""

        def cancelled(timer: DurableTimer) -> None:
            if timer in timers:  # asyncio also cancels those that have fired
                timers.remove(timer)

        return DurableLoop(on_timer=timers.append, on_timer_cancelled=cancelled)  # type: ignore[abstract]

    def fire(self, loop: DurableLoop, timers: list[DurableTimer]) -> None:
        """Time passes until the first is due."""
        timer = min(timers, key=lambda timer: timer.when())
        timers.remove(timer)
        loop.now = max(loop.now, timer.when())
        loop.fire(timer)
        loop.run_until_idle()

    def test_a_sleep_ends_when_its_timer_is_fired(self, loop: DurableLoop, timers: list[DurableTimer]) -> None:
        async def main() -> float:
            await asyncio.sleep(3600)
            return loop.time()

        task = drive(loop, main)
        assert [timer.when() for timer in timers] == [3600]
        loop.run_until_idle()
        assert not task.done()
        self.fire(loop, timers)
        assert task.result() == 3600

    @pytest.mark.parametrize("limit", [asyncio.timeout, asyncio.wait_for], ids=["timeout", "wait_for"])
    def test_a_timeout(self, loop: DurableLoop, timers: list[DurableTimer], limit: Any) -> None:
        async def main() -> str:
            future = loop.create_future()
            try:
                if limit is asyncio.wait_for:
                    await asyncio.wait_for(future, 60)
                else:
                    async with asyncio.timeout(60):
                        await future
            except TimeoutError:
                return f"gave up, future cancelled: {future.cancelled()}"
            return "unreached"

        task = drive(loop, main)
        assert len(timers) == 1
        self.fire(loop, timers)
        assert task.result() == "gave up, future cancelled: True"

    def test_a_timeout_that_was_not_needed_cancels_its_timer(
        self, loop: DurableLoop, timers: list[DurableTimer]
    ) -> None:
        future = loop.create_future()

        async def main() -> int:
            async with asyncio.timeout(60):
                return int(await future)

        task = drive(loop, main)
        future.set_result(1)
        loop.run_until_idle()
        assert (task.result(), timers) == (1, [])

    def test_a_moment_that_has_passed_needs_no_timer(self, loop: DurableLoop, timers: list[DurableTimer]) -> None:
        loop.now = 10.0

        async def main() -> str:
            async with asyncio.timeout_at(9):
                await loop.create_future()
            return "unreached"

        with pytest.raises(TimeoutError):
            result_of(loop, main)
        assert timers == []

    def test_a_discarded_loop_starts_none(self, loop: DurableLoop, timers: list[DurableTimer]) -> None:
        async def main() -> None:
            try:
                await loop.create_future()
            finally:
                await asyncio.sleep(1)

        drive(loop, main)
        loop.discard()
        assert timers == []


class TestRunning:
    def test_runs_what_is_ready_until_nothing_is(self, loop: DurableLoop) -> None:
        seen: list[int] = []
        loop.call_soon(loop.call_soon, seen.append, 2)
        loop.call_soon(seen.append, 1)
        loop.run_until_idle()
        assert seen == [1, 2]

    def test_a_cancelled_callback_does_not_run(self, loop: DurableLoop) -> None:
        seen: list[int] = []
        loop.call_soon(seen.append, 1).cancel()
        loop.call_later(0, seen.append, 2).cancel()
        loop.run_until_idle()
        assert seen == []

    def test_resumes_when_a_future_is_set(self, loop: DurableLoop) -> None:
        future = loop.create_future()

        async def main() -> Any:
            return await future

        task = drive(loop, main)
        assert not task.done()
        future.set_result(7)
        loop.run_until_idle()
        assert task.result() == 7

    def test_is_the_running_loop_only_while_it_runs(self, loop: DurableLoop) -> None:
        async def main() -> bool:
            return asyncio.get_running_loop() is loop and loop.is_running()

        assert result_of(loop, main)
        assert not loop.is_running()
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    def test_runs_in_a_callback_of_another_loop(self, loop: DurableLoop) -> None:
        async def main() -> int:
            await asyncio.sleep(0)
            return 1

        async def outer() -> Any:
            done = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(lambda: done.set_result(result_of(loop, main)))
            value = await done
            await asyncio.sleep(0.001)
            return value

        assert asyncio.run(outer()) == 1

    def test_runs_in_a_task_of_another_loop_which_steps_aside(self, loop: DurableLoop) -> None:
        async def outer() -> None:
            outer_loop = asyncio.get_running_loop()

            async def main() -> list[Any]:
                return [asyncio.current_task(outer_loop), asyncio.current_task()]

            task = drive(loop, main)
            assert task.result() == [None, task]
            assert asyncio.current_task() is not None
            async with asyncio.timeout(1):
                await asyncio.sleep(0.001)

        asyncio.run(outer())

    def test_the_outer_loop_is_back_after_an_exit(self, loop: DurableLoop) -> None:
        async def main() -> None:
            raise SystemExit(3)

        async def outer() -> None:
            task = asyncio.current_task()
            with pytest.raises(SystemExit):
                drive(loop, main)
            assert asyncio.current_task() is task

        asyncio.run(outer())

    def test_polling_for_ever_is_noticed(self, loop: DurableLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loop_module, "MAX_CALLBACKS", 1000)

        async def main() -> None:
            while True:
                await asyncio.sleep(0)

        with pytest.raises(NotDurable, match="1,000 callbacks without ever waiting"):
            drive(loop, main)
        loop.discard()

    def test_time_is_that_of_the_latest_event(self, loop: DurableLoop) -> None:
        loop.now = 12.5
        assert loop.time() == 12.5

    def test_errors_without_an_owner_are_reported_until_discarded(self) -> None:
        reports: list[dict[str, Any]] = []
        loop = DurableLoop(reports.append)  # type: ignore[abstract]
        loop.call_soon(lambda: 1 / 0)
        loop.run_until_idle()
        assert isinstance(reports.pop()["exception"], ZeroDivisionError)
        loop.create_future().set_exception(ValueError("never retrieved"))
        gc.collect()
        assert str(reports.pop()["exception"]) == "never retrieved"
        future = loop.create_future()
        future.set_exception(ValueError())
        loop.discard()
        del future
        gc.collect()
        assert reports == []


class TestDeterminism:
    def test_sets_of_tasks_iterate_in_the_order_of_creation(self, loop: DurableLoop) -> None:
        async def child(number: int) -> int:
            await asyncio.sleep(0)
            return number

        async def main() -> list[int]:
            tasks = [asyncio.create_task(child(number)) for number in range(50)]
            done, _ = await asyncio.wait(tasks)
            return [task.result() for task in done]

        assert result_of(loop, main) == list(range(50))

    def test_equality_stays_identity(self, loop: DurableLoop) -> None:
        other = DurableLoop()  # type: ignore[abstract]
        ours, theirs = loop.create_future(), other.create_future()
        assert hash(ours) == hash(theirs)
        assert ours != theirs
        assert len({ours, theirs}) == 2

    def test_tasks_are_named_by_number_or_by_the_user(self, loop: DurableLoop) -> None:
        async def nothing() -> None: ...

        async def main() -> list[str]:
            tasks = [asyncio.create_task(nothing()), asyncio.create_task(nothing(), name="mine")]
            await asyncio.gather(*tasks)
            return [task.get_name() for task in tasks]

        assert result_of(loop, main) == ["Task-2", "mine"]

    def test_as_completed_takes_tasks_and_refuses_bare_coroutines(self, loop: DurableLoop) -> None:
        async def child(number: int) -> int:
            return number

        async def main() -> list[int]:
            with pytest.raises(NotDurable, match="arbitrary order"):
                next(iter(asyncio.as_completed([child(1)])))
            tasks = [asyncio.create_task(child(number)) for number in range(5)]
            return [await first for first in asyncio.as_completed(tasks)]

        assert result_of(loop, main) == [0, 1, 2, 3, 4]

    def test_what_the_outer_context_holds_stays_outside(self, loop: DurableLoop) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
        variable.set("outer")

        async def child() -> str:
            inherited = variable.get()
            variable.set("child")
            await asyncio.sleep(0)
            return f"{inherited} {variable.get()}"

        async def main() -> list[str]:
            before = variable.get()
            variable.set("main")
            results = await asyncio.gather(child(), child())
            return [before, *results, variable.get()]

        assert result_of(loop, main) == ["none", "main child", "main child", "main"]
        assert variable.get() == "outer"

    def test_the_garbage_collector_does_not_end_a_task_that_nobody_holds(self, loop: DurableLoop) -> None:
        ended: list[str] = []

        async def forgotten() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append("task")

        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                ended.append("generator")

        async def main() -> None:
            asyncio.create_task(forgotten())  # noqa: RUF006
            async for _ in numbers():
                break

        drive(loop, main)
        gc.collect()
        assert ended == []
        loop.cancel_all()
        assert ended == ["task", "generator"]


class TestPrimitives:
    def test_lock_event_queue_semaphore_condition(self, loop: DurableLoop) -> None:
        async def main() -> list[Any]:
            seen: list[Any] = []
            lock, event, queue, semaphore = asyncio.Lock(), asyncio.Event(), asyncio.Queue[int](1), asyncio.Semaphore(2)

            async def producer() -> None:
                for number in range(3):
                    await queue.put(number)
                event.set()

            async def consumer() -> None:
                for _ in range(3):
                    async with semaphore, lock:
                        seen.append(await queue.get())

            async with asyncio.TaskGroup() as group:
                group.create_task(consumer())
                group.create_task(producer())
                await event.wait()
                seen.append("event")
            return seen

        assert result_of(loop, main) == [0, 1, 2, "event"]

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
    def test_eager_tasks(self, loop: DurableLoop) -> None:
        async def child(seen: list[int]) -> None:
            seen.append(1)
            await asyncio.sleep(0)
            seen.append(2)

        async def main() -> list[int]:
            seen: list[int] = []
            task = loop.create_task(child(seen), eager_start=True)
            assert seen == [1]
            await task
            return seen

        assert result_of(loop, main) == [1, 2]

    def test_no_time_limit_is_no_timer(self, loop: DurableLoop) -> None:
        async def main() -> int:
            async with asyncio.timeout(None):
                await asyncio.sleep(0)
            await asyncio.sleep(-1)
            return await asyncio.wait_for(asyncio.sleep(0, 5), None)

        assert result_of(loop, main) == 5

    def test_a_timeout_of_zero_is_over_at_once(self, loop: DurableLoop) -> None:
        async def main() -> None:
            async with asyncio.timeout(0):
                await asyncio.get_running_loop().create_future()

        with pytest.raises(TimeoutError):
            result_of(loop, main)


class TestNotDurable:
    @pytest.mark.parametrize(
        ("use", "remedy"),
        [
            (lambda: asyncio.to_thread(print), r"loop.run_in_executor. Threads .* `await ctx.call\(...\)`"),
            (lambda: asyncio.open_connection("localhost", 1), "loop.create_connection.*activity"),
            (lambda: asyncio.create_subprocess_exec("true"), "loop.subprocess_exec.*activity"),
            (lambda: asyncio.get_running_loop().getaddrinfo("localhost", 1), "loop.getaddrinfo.*activity"),
        ],
    )
    def test_says_what_to_do_instead(self, loop: DurableLoop, use: Callable[[], Any], remedy: str) -> None:
        async def main() -> None:
            await use()

        with pytest.raises(NotDurable, match=remedy):
            result_of(loop, main)

    @pytest.mark.parametrize("name", ["stop", "close", "run_forever", "call_soon_threadsafe", "add_signal_handler"])
    def test_the_loop_is_not_the_users(self, loop: DurableLoop, name: str) -> None:
        with pytest.raises(NotDurable, match=f"loop.{name}"):
            getattr(loop, name)(print)

    def test_another_thread_cannot_reach_in(self, loop: DurableLoop) -> None:
        errors: list[BaseException] = []

        def reach_in() -> None:
            try:
                loop.call_soon_threadsafe(print)
            except NotDurable as error:
                errors.append(error)

        thread = threading.Thread(target=reach_in)
        thread.start()
        thread.join()
        assert len(errors) == 1


@pytest.mark.usefixtures("silence")
class TestDiscarding:
    def test_finally_blocks_that_wait_again(self, loop: DurableLoop) -> None:
        seen: list[str] = []

        async def main() -> None:
            try:
                await loop.create_future()
            finally:
                seen.append("ended")
                try:
                    await asyncio.sleep(0)
                finally:
                    await loop.create_future()
                    seen.append("never")

        drive(loop, main)
        loop.discard()
        assert seen == ["ended"]

    def test_swallowed_generator_exit(self, loop: DurableLoop) -> None:
        seen: list[str] = []

        async def main() -> None:
            try:
                await loop.create_future()
            except BaseException:
                pass
            await asyncio.gather(asyncio.sleep(0), loop.create_future())
            seen.append("never")

        drive(loop, main)
        loop.discard()
        assert seen == []

    def test_nothing_reaches_the_outer_loop(self, loop: DurableLoop) -> None:
        async def late() -> None:
            raise AssertionError

        async def main() -> None:
            try:
                await loop.create_future()
            finally:
                asyncio.create_task(late())  # noqa: RUF006

        async def outer() -> set[asyncio.Task[Any]]:
            drive(loop, main)
            loop.discard()
            return asyncio.all_tasks()

        assert len(asyncio.run(outer())) == 1

    def test_a_tree_of_tasks(self, loop: DurableLoop) -> None:
        async def child() -> None:
            async with asyncio.Lock():
                await loop.create_future()

        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(child())
                await asyncio.shield(asyncio.gather(child(), child()))

        drive(loop, main)
        loop.discard()

    def test_coroutines_in_hand_that_were_never_started(self, loop: DurableLoop) -> None:
        async def child(number: int) -> int:
            return await loop.create_future() if number == 2 else number

        async def main() -> list[int]:
            later = {"later": child(9)}
            results = [await each for each in [child(number) for number in range(5)]]
            return [*results, await later["later"]]

        drive(loop, main)
        loop.discard()

    def test_async_generators(self, loop: DurableLoop) -> None:
        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
                await loop.create_future()
            finally:
                await asyncio.sleep(0)

        async def main() -> None:
            half_done = numbers()
            await anext(half_done)
            async for _ in numbers():
                pass

        drive(loop, main)
        loop.discard()

    def test_sync_generators(self, loop: DurableLoop) -> None:
        def numbers() -> Iterator[int]:
            try:
                yield 1
            finally:
                loop.create_future()

        async def main() -> None:
            half_done = numbers()
            next(half_done)
            await loop.create_future()

        drive(loop, main)
        loop.discard()

    @pytest.mark.parametrize("wait", [0, 1])
    def test_cleaning_up_with_asyncio(self, loop: DurableLoop, wait: float) -> None:
        async def main() -> None:
            while True:
                try:
                    await loop.create_future()
                finally:
                    await asyncio.sleep(wait)

        drive(loop, main)
        loop.discard()

    @pytest.mark.parametrize("wait", ["future", "task", "sleep"])
    def test_a_loop_around_except_base_exception_is_set_aside(
        self, loop: DurableLoop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, wait: str
    ) -> None:
        monkeypatch.setattr(loop_module, "_set_aside", [])
        tries, over = 0, False

        async def nothing() -> None: ...

        async def wait_for_nothing() -> None:
            if wait == "future":
                await loop.create_future()
            elif wait == "task":
                await asyncio.create_task(nothing())
                await loop.create_future()
            else:
                await asyncio.sleep(0 if tries == 0 else 1)

        async def main() -> None:
            nonlocal tries
            await loop.create_future()
            while not over:
                tries += 1
                try:
                    await wait_for_nothing()
                except BaseException:
                    pass

        async def swallowing() -> None:
            while not over:
                try:
                    await main()
                except BaseException:
                    pass

        drive(loop, swallowing)
        loop.discard()
        assert "cannot be ended and stays in memory" in caplog.text
        assert tries <= MAX_THROWS + 1
        over = True

    def test_contextvars_are_those_of_the_task(self, loop: DurableLoop) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
        seen: list[str] = []

        async def main() -> None:
            token = variable.set("mine")
            try:
                await loop.create_future()
            finally:
                seen.append(variable.get())
                variable.reset(token)

        drive(loop, main)
        loop.discard()
        assert seen == ["mine"]

    def test_coroutines_made_while_cleaning_up(self, loop: DurableLoop) -> None:
        async def never() -> None:
            raise AssertionError

        async def main() -> None:
            try:
                await loop.create_future()
            except BaseException:
                async with asyncio.TaskGroup() as group:
                    group.create_task(never())
                    later = [never(), never()]
                    await asyncio.gather(never(), loop.create_future(), never())
                    await asyncio.gather(*later)

        drive(loop, main)
        loop.discard()

    def test_nothing_runs_any_more(self, loop: DurableLoop) -> None:
        loop.discard()
        assert loop.is_closed()
        loop.call_soon(pytest.fail)
        loop.call_later(1, pytest.fail)
        loop.run_until_idle()


def test_the_order_is_the_same_in_every_process() -> None:
    program = """if True:
        import asyncio
        from pipeteer_django.pipelines.loop import DurableLoop

        async def child(number):
            await asyncio.sleep(0)
            return number

        async def main():
            padding = [object() for _ in range(int(SEED) * 7)]
            tasks = [asyncio.create_task(child(number)) for number in range(100)]
            done, _ = await asyncio.wait(tasks[50:] + tasks[:50])
            print([task.result() for task in done])

        loop = DurableLoop()
        loop.create_task(main())
        loop.run_until_idle()
    """
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program.replace("SEED", f'"{seed}"')],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1
