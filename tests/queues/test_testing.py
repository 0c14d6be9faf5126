"""`pipeteer_django.testing`: what a project's own tests run their pipelines with."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import TestCase, TransactionTestCase
from django.utils import timezone

from pipeteer_django.exceptions import ImpureWorkflow, InvalidValue, RunFailed, StepFailed
from pipeteer_django.models import Queue
from pipeteer_django.queues.claim import plain
from pipeteer_django.testing import drain
from pipeteer_django.worker import attempts
from tests.queues import by_hand
from tests.testapp.models import Item, Ledger
from tests.testapp.pipelines import (
    Boom,
    Flaky,
    approval,
    approve,
    boom,
    boom_thrice,
    careful,
    careless,
    double,
    flaky,
    mailbox,
    no_input,
    process_item,
    quad,
    record,
    record_flaky,
    scripted,
    scripted_child,
)
from tests.trouble.models import Effect
from tests.trouble.pipelines import fails

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)

Play = Callable[[Any, Callable[..., Any]], None]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Gives a pipeline other code."""
    return lambda pipeline, function: monkeypatch.setattr(pipeline, "function", function)


def since(moment: str, start: datetime) -> timedelta:
    return datetime.fromisoformat(moment) - start


# Time


async def sleeps(x: Any, ctx: Any) -> str:
    await ctx.sleep(timedelta(days=x))
    return str(ctx.now().isoformat())


def test_time_stays_unless_it_is_skipped(play: Play) -> None:
    play(scripted, sleeps)
    run = scripted.enqueue(3)
    assert drain() == 1
    assert run.look() is None
    assert scripted.Input.objects.waiting().count() == 1


def test_a_timer_is_skipped_and_the_workflow_sees_it(play: Play) -> None:
    play(scripted, sleeps)
    start = timezone.now()
    run = scripted.enqueue(3)
    assert drain(skip_time=True) == 2
    assert timedelta(0) <= since(run.result(timeout=0), start) - 3 * DAY < timedelta(minutes=1)


def test_a_step_after_a_jump_is_done_at_the_time_jumped_to(play: Play) -> None:
    async def code(x: Any, ctx: Any) -> list[str]:
        times = []
        for pipeline in (double, record, flaky):
            await ctx.call(pipeline, 0 if pipeline is not record else "x", delay=DAY)
            times.append(ctx.now().isoformat())
        return times

    play(scripted, code)
    start = timezone.now()
    run = scripted.enqueue(None)
    drain(skip_time=True)
    jumps = [since(moment, start) for moment in run.result(timeout=0)]
    assert [round(jump / DAY) for jump in jumps] == [1, 2, 3]


def test_a_delay_and_a_run_after_are_skipped() -> None:
    runs = [double.enqueue(1, delay=5 * DAY), double.enqueue(2, run_after=timezone.now() + 400 * DAY)]
    assert drain(double) == 0
    assert drain(double, skip_time=True) == 2
    assert [run.result(timeout=0) for run in runs] == [2, 4]


def test_a_backoff_is_skipped() -> None:
    runs = [flaky.enqueue(3), record_flaky.enqueue(2)]
    assert drain(flaky, record_flaky, skip_time=True) == 4 + 3
    assert [run.result(timeout=0) for run in runs] == [4, 3]


def test_no_further_than_said(play: Play) -> None:
    async def code(x: Any, ctx: Any) -> str:
        await ctx.sleep(3 * DAY)
        try:
            return str(await ctx.receive("word", timeout=4 * DAY))
        except TimeoutError:
            return "too late"

    play(scripted, code)
    early, late = (scripted.enqueue(None, key=key) for key in ("early", "late"))
    drain(skip_time=2 * DAY)
    assert not plain(scripted.Step, "default").filter(done_at__isnull=False)
    drain(skip_time=3 * DAY + timedelta(minutes=1))
    scripted.send("early", "word", "here")
    drain(skip_time=True)
    assert (early.result(timeout=0), late.result(timeout=0)) == ("here", "too late")


def test_nothing_is_later_than_what_is_ready(play: Play) -> None:
    async def code(x: Any, ctx: Any) -> str:
        first, _ = await asyncio.wait(
            [ctx.call(quad, 1), asyncio.ensure_future(ctx.sleep(1))], return_when=asyncio.FIRST_COMPLETED
        )
        return str(next(iter(first)).result())

    play(scripted, code)
    run = scripted.enqueue(None)
    drain(skip_time=True)
    assert run.result(timeout=0) == "4"


def test_what_is_due_in_queues_of_others_is_not_waited_for() -> None:
    double.enqueue(1, delay=DAY)
    Queue.objects.create(pipeline="no_input", held=True)
    no_input.enqueue(delay=DAY)
    assert drain(quad, no_input, skip_time=True) == 0


def test_the_next_drain_begins_now(play: Play) -> None:
    play(scripted, sleeps)
    scripted.enqueue(3)
    drain(skip_time=True)
    double.enqueue(1, delay=DAY)
    assert drain() == 0


def test_an_entry_that_is_retried_for_ever_comes_to_an_end() -> None:
    fails.enqueue(1)
    other = double.enqueue(1, delay=timedelta(minutes=1))
    assert drain(skip_time=True, raise_failures=False) == 20 + 1
    assert fails.Input.objects.get().attempt == 20
    assert other.result(timeout=0) == 2
    with pytest.raises(Exception, match="1 will not do") as raised:
        drain(fails, skip_time=True)
    assert raised.value.__notes__ == [
        f"pipeteer: fails '{fails.Input.objects.get().key}', attempt 40, waits for its next attempt."
    ]


@pytest.mark.parametrize("again", [False, True])
def test_a_workflow_that_never_ends(play: Play, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    async def code(x: Any, ctx: Any) -> None:
        while True:
            await ctx.sleep(DAY)
            await ctx.call(double, x)
            if again:
                ctx.continue_as_new(x)

    play(scripted, code)
    monkeypatch.setattr("pipeteer_django.testing._WAKES", 10)
    scripted.enqueue(1)
    with pytest.raises(AssertionError, match=r"If it never ends, say how far: skip_time=timedelta\(days=3\)"):
        drain(skip_time=True)


def test_a_workflow_that_never_ends_for_some_days(play: Play) -> None:
    async def code(x: Any, ctx: Any) -> None:
        while True:
            await ctx.sleep(DAY)
            await ctx.call(record, "daily")

    play(scripted, code)
    scripted.enqueue(None)
    drain(skip_time=7 * DAY + timedelta(minutes=1))
    assert Ledger.objects.count() == 7


# Failures


def only_failure(error: type[Exception], match: str, *pipelines: Any, **options: Any) -> Exception:
    with pytest.raises(error, match=match) as raised:
        drain(*pipelines, **options)
    return raised.value


def test_the_exception_itself_is_raised() -> None:
    run = boom.enqueue("bang", key="task")
    error = only_failure(Boom, "bang")
    assert "raise Boom(message)" in "".join(traceback.format_exception(error))
    assert error.__notes__ == ["pipeteer: boom 'task', attempt 1, was given up."]
    assert boom.Input.objects.failed().get().key == "task"
    with pytest.raises(RunFailed):
        run.result(timeout=0)
    assert drain() == 0  # what an earlier drain has told is not told again


def test_an_attempt_that_waits_for_its_next() -> None:
    boom_thrice.enqueue("bang", key="task")
    error = only_failure(Boom, "bang")
    assert error.__notes__ == ["pipeteer: boom_thrice 'task', attempt 1, waits for its next attempt."]
    entry = boom_thrice.Input.objects.get()
    assert (entry.attempt, entry.failed_at, "Boom: bang" in entry.error) == (1, None, True)
    by_hand.overdue(boom_thrice)
    only_failure(Boom, "bang", skip_time=True)
    assert boom_thrice.Input.objects.failed().get().attempt == 3


def test_an_attempt_that_waits_longer_than_time_is_skipped() -> None:
    fails.enqueue(1)
    only_failure(Exception, "1 will not do", skip_time=timedelta(seconds=1))


def test_an_attempt_that_succeeds_later_is_no_failure() -> None:
    run = flaky.enqueue(2)
    drain(skip_time=True)
    assert run.result(timeout=0) == 3


def test_what_is_done_is_done_before_anything_is_raised() -> None:
    run = quad.enqueue(1)
    boom.enqueue("bang")
    later = quad.enqueue(2)
    only_failure(Boom, "bang")
    assert (run.result(timeout=0), later.result(timeout=0)) == (4, 8)


def test_of_several_the_first_that_was_given_up_is_raised() -> None:
    boom_thrice.enqueue("retried", key="r")
    boom.enqueue("one", key="a")
    boom.enqueue("two", key="b")
    error = only_failure(Boom, "one")
    first, others = error.__notes__
    assert first == "pipeteer: boom 'a', attempt 1, was given up."
    assert others == (
        "pipeteer: 2 more failed: boom 'b', attempt 1, was given up; "
        "boom_thrice 'r', attempt 1, waits for its next attempt."
    )


def test_a_failure_that_is_caught_is_none() -> None:
    run = careful.enqueue("bang")
    drain()
    assert run.result(timeout=0) == "Boom: bang"


def test_a_failure_that_is_not_caught_comes_with_what_caused_it() -> None:
    careless.enqueue("bang", key="task")
    error = only_failure(StepFailed, "boom: Boom: bang")
    assert isinstance(error.__cause__, Boom)
    assert "raise Boom(message)" in "".join(traceback.format_exception(error))
    assert error.__notes__ == ["pipeteer: careless 'task', attempt 1, was given up."]


def test_a_failed_attempt_of_a_call_that_was_cancelled_is_none(play: Play) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.any(ctx.call(fails, 1), ctx.call(quad, 1))

    play(scripted, code)
    run = scripted.enqueue(None)
    drain()
    assert run.result(timeout=0) == 4
    assert not fails.Input.objects.exists()


def test_a_parked_child_is_a_failure(play: Play) -> None:
    async def calls(x: Any, ctx: Any) -> Any:
        return await ctx.call(scripted_child, x)

    async def other(x: Any, ctx: Any) -> Any:
        return await ctx.call(approve, "other")

    play(scripted, calls)
    play(scripted_child, lambda x, ctx: approval.function("question", ctx))
    scripted.enqueue(1)
    drain()
    play(scripted_child, other)
    approve.Input.objects.push(approve.Input.objects.get().key, True)
    error = only_failure(ImpureWorkflow, "recorded as")
    assert "scripted_child 'scripted:" in error.__notes__[0]
    assert scripted_child.Input.objects.failed().count() == 1
    assert scripted.Input.objects.waiting().count() == 1


def test_a_value_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(claim: Any) -> Any:
        raise InvalidValue("value: testapp.Item 1 does not exist any more.")

    process_item.enqueue(Item.objects.create(name="pen"))
    monkeypatch.setattr(attempts, "decode", refuse)
    only_failure(InvalidValue, "does not exist any more")


def test_an_entry_that_killed_its_process() -> None:
    double.enqueue(1)
    by_hand.engine(double, crashes=9)
    only_failure(RunFailed, "lost 9 times")


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_no_body_ends_the_test_run(kind: type[BaseException], play: Play) -> None:
    def body(message: str) -> int:
        raise kind("stop")

    play(boom, body)
    boom.enqueue("bang")
    error = only_failure(RunFailed, kind.__name__)
    assert isinstance(error.__cause__, kind)


def test_failures_may_be_left_in_the_rows(caplog: pytest.LogCaptureFixture) -> None:
    boom.enqueue("bang")
    with caplog.at_level(logging.ERROR):
        assert drain(raise_failures=False) == 1
    assert boom.Input.objects.failed().count() == 1


def test_an_impure_workflow_is_found(play: Play) -> None:
    """Each step is a replay from the beginning."""
    numbers = iter(range(10))

    async def impure(x: Any, ctx: Any) -> Any:
        await ctx.call(double, next(numbers))
        return await ctx.call(double, 1)

    play(scripted, impure)
    scripted.enqueue(1)
    only_failure(ImpureWorkflow, "does not repeat its record")


# The test's own transaction


def violates(message: str) -> int:
    """Writes, and then fails in the database."""
    Effect.objects.create(name=message)
    Effect.objects.create(name=message, unique=1)
    Effect.objects.create(name=message, unique=1)
    return 0


def swallows(message: str) -> int:
    """The same, and goes on as if nothing had been."""
    try:
        violates(message)
    except IntegrityError:
        return 1
    return 0


def aborts(message: str) -> int:
    """A statement past the ORM."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT no_such_column FROM testapp_ledger")
    return 0


@pytest.mark.parametrize("transactional", [False, pytest.param(True, marks=pytest.mark.django_db(transaction=True))])
def test_a_database_error_of_a_body_is_its_own(play: Play, transactional: bool) -> None:
    Effect.objects.create(name="the test's own")
    play(boom, violates)
    boom.enqueue("bang")
    run = quad.enqueue(1)
    only_failure(IntegrityError, "(?i)unique|duplicate")
    assert run.result(timeout=0) == 4
    assert Effect.objects.filter(name="the test's own").exists()
    # As without a test, where each statement is a transaction; inside the test's, all of the body's are taken back.
    assert Effect.objects.filter(name="bang").count() == (2 if transactional else 0)


def test_a_body_that_swallows_a_database_error(play: Play) -> None:
    play(boom, swallows)
    run = boom.enqueue("bang")
    drain()
    assert run.result(timeout=0) == 1


def test_a_raw_statement_that_fails(play: Play) -> None:
    play(boom, aborts)
    boom.enqueue("bang")
    only_failure(Exception, "no_such_column")
    assert boom.Input.objects.failed().exists()


def test_a_body_with_a_durable_block(play: Play) -> None:
    def body(message: str) -> int:
        with transaction.atomic(durable=True):
            Ledger.objects.create(name=message, run_id=1)
        raise Boom(message)

    play(boom, body)
    boom.enqueue("bang")
    only_failure(Boom, "bang")
    assert Ledger.objects.get().name == "bang"  # a failed attempt's writes stay, where it is not atomic


class Story:
    """The same in both of Django's kinds of test."""

    def test_story(self) -> None:
        run = approval.enqueue("May I?", key="a")
        notes = mailbox.enqueue(1, key="m")
        drain()
        approve.push(approve.Input.objects.get().key, True)
        mailbox.send("m", "note", "hello")
        mailbox.send("m", "approved", True)
        drain()
        assert run.result(timeout=0) == "yes"
        assert notes.result(timeout=0) == ["hello", True]
        double.enqueue(1, delay=DAY)
        boom_thrice.enqueue("bang")
        try:
            drain(skip_time=True)
        except Boom:
            assert boom_thrice.Input.objects.failed().count() == 1
        else:
            raise AssertionError("nothing was raised")
        record_flaky.enqueue(1)
        try:
            drain()
        except Flaky:
            assert record_flaky.Input.objects.scheduled().count() == 1
        else:
            raise AssertionError("nothing was raised")


class PlainTest(Story, TestCase):
    """In the test's transaction."""


class TransactionalTest(Story, TransactionTestCase):
    """Transactions of its own."""
