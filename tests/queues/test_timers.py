"""Runs that sleep: when they wake, when they do not, and what a restart of the worker makes of it."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import time_of
from pipeteer_django.testing import drain
from tests.queues.clockwork import Clockwork
from tests.testapp.models import Ledger
from tests.testapp.pipelines import approve, double, scripted, trace

pytestmark = pytest.mark.django_db


def due() -> datetime:
    moment: datetime = scripted.Input.objects.get().available_at
    return moment


async def by_asyncio(x: Any, ctx: Any) -> Any:
    await asyncio.sleep(3600)
    return "awake"


async def by_ctx(x: Any, ctx: Any) -> Any:
    await ctx.sleep(timedelta(hours=1))
    return "awake"


async def until(x: Any, ctx: Any) -> Any:
    await ctx.sleep_until(ctx.now() + timedelta(hours=1))
    return "awake"


async def by_timeout(x: Any, ctx: Any) -> Any:
    try:
        async with asyncio.timeout(3600):
            await ctx.receive("never")
    except TimeoutError:
        return "awake"


async def by_wait_for(x: Any, ctx: Any) -> Any:
    try:
        await asyncio.wait_for(ctx.call(approve, "never"), 3600)
    except TimeoutError:
        return "awake"


async def by_wait(x: Any, ctx: Any) -> Any:
    _, pending = await asyncio.wait([ctx.call(approve, "never")], timeout=3600)
    return "awake" if pending else "?"


async def by_receive(x: Any, ctx: Any) -> Any:
    try:
        await ctx.receive("never", timeout=timedelta(hours=1))
    except TimeoutError:
        return "awake"


@pytest.mark.parametrize(
    "code", [by_asyncio, by_ctx, until, by_timeout, by_wait_for, by_wait, by_receive], ids=lambda code: code.__name__
)
@pytest.mark.parametrize("restarted", [False, True], ids=["", "restarted"])
def test_a_run_sleeps_by_the_databases_clock(work: Clockwork, code: Any, restarted: bool) -> None:
    work.play((scripted, code))
    before = time_of("default")
    run = scripted.enqueue(1)
    work.run()
    # A run's time is whole milliseconds: the last one before.
    assert timedelta(minutes=59) < due() - before < timedelta(hours=1, minutes=1)
    assert scripted.Input.objects.waiting().count() == 1
    if restarted:
        work.forget()
    assert work.later(minutes=58) == 0
    work.later(minutes=3)
    assert run.result(timeout=0) == "awake"
    assert approve.Input.objects.count() == 0


def test_drain_leaves_a_sleeping_run_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "function", by_ctx)
    scripted.enqueue(1)
    assert (drain(scripted), drain(scripted)) == (1, 0)


def test_the_next_of_several_timers_counts(work: Clockwork) -> None:
    async def nap(ctx: Any, minutes: int) -> None:
        await ctx.sleep(60 * minutes)
        await ctx.call(trace, f"after {minutes}")

    async def code(x: Any, ctx: Any) -> Any:
        begun = ctx.now()
        await asyncio.gather(*(nap(ctx, minutes) for minutes in x))
        return (ctx.now() - begun).total_seconds() >= 1800

    begun = datetime.now(UTC)
    work.play((scripted, code))
    run = scripted.enqueue([30, 10, 20])
    work.run()
    for minutes in (10, 20, 30):
        assert timedelta(minutes=minutes - 1) < due() - begun < timedelta(minutes=minutes + 1)
        work.later(minutes=10, seconds=1)
        assert Ledger.objects.last().name == f"after {minutes}"  # type: ignore[union-attr]
    assert Ledger.objects.count() == 3
    assert run.result(timeout=0) is True


def test_timers_that_are_due_together_go_off_in_the_order_of_their_times(work: Clockwork) -> None:
    async def nap(log: list[int], seconds: int) -> None:
        await asyncio.sleep(seconds)
        log.append(seconds)

    async def code(x: Any, ctx: Any) -> Any:
        log: list[int] = []
        await asyncio.gather(*(nap(log, seconds) for seconds in x))
        await ctx.call(double, 1)
        return log

    work.play((scripted, code))
    run = scripted.enqueue([(7 * number) % 100 + 1 for number in range(100)])
    work.run()
    work.later(hours=1)
    assert run.result(timeout=0) == list(range(1, 101))


def test_a_cancelled_timer_wakes_nobody(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        nap = asyncio.create_task(asyncio.sleep(60))
        await ctx.call(double, 1)
        nap.cancel()
        await ctx.sleep(3600)
        return "awake"

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert work.later(minutes=30) == 0
    assert scripted.Step.objects.get(index=1).cancelled_at is not None
    work.later(minutes=31)
    assert run.result(timeout=0) == "awake"


def test_a_timer_that_was_cancelled_before_it_began_is_no_bother(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        async with asyncio.timeout(60):
            pass
        return await ctx.call(double, 1)

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert run.result(timeout=0) == 2
    assert scripted.Step.objects.get(index=0).cancelled_at is not None


def test_a_timer_and_a_result_in_one_turn_are_told_apart_by_time(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        log: list[str] = []

        async def nap() -> None:
            await asyncio.sleep(600)
            log.append("timer")

        async def call() -> None:
            await ctx.call(approve, "ready?", key="ready")
            log.append("result")

        await asyncio.gather(nap(), call())
        return log

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    approve.push("ready", True)  # now: the timer is due in ten minutes only, but the run sees both together
    work.later(hours=1)
    assert run.result(timeout=0) == ["result", "timer"]


def test_a_timer_is_due_as_it_began_whatever_the_code_says_now(work: Clockwork) -> None:
    async def longer(x: Any, ctx: Any) -> Any:
        await ctx.sleep(7200)
        return "awake"

    work.play((scripted, by_ctx))
    run = scripted.enqueue(1)
    work.run()
    work.play((scripted, longer))
    work.later(minutes=61)
    assert run.result(timeout=0) == "awake"


def test_time_stands_still_between_events_and_goes_on_with_them(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        times = [ctx.now()]
        for _ in range(3):
            await ctx.sleep(60)
            times.append(ctx.now())
        return [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)]

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    for _ in range(3):
        work.later(seconds=61)
    assert run.result(timeout=0) == [60.0, 60.0, 60.0]


def test_a_sleep_of_nothing_is_no_step(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        await ctx.sleep(0)
        await ctx.sleep_until(ctx.now() - timedelta(days=1))
        return await ctx.call(double, 1)

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert run.result(timeout=0) == 2
    assert scripted.Step.objects.count() == 1


def test_a_result_wakes_a_run_that_also_has_a_timer_which_then_still_counts(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        nap = asyncio.create_task(asyncio.sleep(3600))
        await ctx.call(approve, "ready?", key="ready")
        await nap
        return "both"

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    wakes = due()
    approve.push("ready", True)
    work.run()
    assert due() == wakes
    assert plain(scripted.Input, "default").get().suspended
    work.later(minutes=61)
    assert run.result(timeout=0) == "both"
