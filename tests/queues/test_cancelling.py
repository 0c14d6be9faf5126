"""Cancelling runs, down the tree; and undoing what a run had done."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from django.db import connection, transaction

from pipeteer_django.exceptions import RunFailed, RunGone, StepFailed
from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.queues import runs
from pipeteer_django.queues.rows import lock
from tests.queues import by_hand
from tests.queues.clockwork import Clockwork
from tests.testapp.models import Ledger
from tests.testapp.pipelines import (
    approve,
    boom,
    double,
    record,
    scripted,
    scripted_child,
    scripted_grandchild,
)

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)
needs_row_locks = pytest.mark.skipif("sqlite" in str(connection.vendor), reason="SQLite locks no rows")


def undone() -> list[str]:
    return list(Ledger.objects.order_by("id").values_list("name", flat=True))


def nothing_is_left() -> bool:
    return not any(p.Input.objects.exists() for p in (scripted, scripted_child, scripted_grandchild, approve, record))


async def tidy(x: Any, ctx: Any) -> Any:
    """Waits for ever; cleans up with two calls, one after the other."""
    try:
        await ctx.call(approve, "never")
    finally:
        await ctx.call(record, f"first {x}")
        await ctx.call(record, f"second {x}")


# Cancelling


def test_a_cancelled_run_cleans_up_and_leaves_without_a_result(work: Clockwork) -> None:
    work.play((scripted, tidy))
    run = scripted.enqueue("me", key="task")
    work.run()
    assert scripted.cancel("task") is True
    work.run()
    with pytest.raises(RunGone):
        run.result(timeout=0)
    assert (undone(), scripted.Output.objects.count()) == (["first me", "second me"], 0)
    assert nothing_is_left()


def test_cancelling_twice_is_cancelling_once(work: Clockwork) -> None:
    work.play((scripted, tidy))
    scripted.enqueue("me", key="task")
    work.run()
    assert [scripted.cancel("task"), scripted.cancel("task")] == [True, True]
    work.run(scripted)
    assert scripted.cancel("task")
    work.forget()
    work.run()
    assert undone() == ["first me", "second me"]
    assert scripted.cancel("task") is False
    assert nothing_is_left()


def test_the_whole_tree_cleans_up(work: Clockwork) -> None:
    async def child(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(scripted_grandchild, x)
        finally:
            await ctx.call(record, "child")

    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(scripted_child, x)
        finally:
            await ctx.call(record, "root")

    work.play((scripted, code), (scripted_child, child), (scripted_grandchild, tidy))
    run = scripted.enqueue("grandchild", key="task")
    work.run()
    scripted.cancel("task")
    work.run()
    assert sorted(undone()) == ["child", "first grandchild", "root", "second grandchild"]
    assert nothing_is_left()
    with pytest.raises(RunGone):
        run.result(timeout=0)


def test_a_cancellation_that_is_swallowed_lets_the_run_finish(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(approve, "never")
        except asyncio.CancelledError:
            return await ctx.call(double, x)

    work.play((scripted, code))
    run = scripted.enqueue(2, key="task")
    work.run()
    scripted.cancel("task")
    work.run()
    assert run.result(timeout=0) == 4
    assert nothing_is_left()


def test_a_run_that_has_not_begun_is_simply_gone(work: Clockwork) -> None:
    run = scripted.enqueue(1, key="task")
    assert scripted.cancel("task")
    assert work.run() == 0
    with pytest.raises(RunGone):
        run.result(timeout=0)


def test_a_failed_run_is_gone_with_what_it_had_open(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        ctx.call(approve, "open")
        await ctx.call(boom, "no")

    work.play((scripted, code))
    scripted.enqueue(1, key="task")
    work.run()
    assert (scripted.Input.objects.failed().count(), approve.Input.objects.count()) == (1, 1)
    assert scripted.cancel("task")
    assert nothing_is_left()
    assert work.run() == 0


def test_a_finished_run_cannot_be_cancelled(work: Clockwork) -> None:
    run = scripted.enqueue(1, key="task")
    work.run()
    assert scripted.cancel("task") is False
    assert run.result(timeout=0) == 1
    assert scripted.Message.objects.count() == 0


def test_whoever_waits_for_the_result_is_told(
    work: Clockwork, wakeups: list[str], django_capture_on_commit_callbacks: Any
) -> None:
    scripted.enqueue(1, key="task", output="mine")
    with django_capture_on_commit_callbacks(execute=True):
        scripted.cancel("task")
    assert "mine" in wakeups


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
def test_the_caller_of_a_cancelled_workflow_is_told(work: Clockwork, begun: bool) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(scripted_child, "child")
        except StepFailed as failure:
            return failure.type_name

    work.play((scripted, code), (scripted_child, tidy))
    run = scripted.enqueue(1)
    work.run(*([] if begun else [scripted]))
    assert scripted_child.cancel(scripted_child.Input.objects.get().key)
    work.run()
    assert run.result(timeout=0) == ("CancelledError" if begun else "Deleted")
    assert undone() == (["first child", "second child"] if begun else [])


def test_the_caller_of_a_run_that_parks_at_the_last_moment_is_told(
    work: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a run and the lock on its row a worker may give it up."""

    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(scripted_child, "child")
        except StepFailed as failure:
            return failure.type_name

    def lock_too_late(*arguments: Any, **options: Any) -> Any:
        by_hand.engine(scripted_child, failed_at=work.now, suspended=False, available_at=None)
        return lock(*arguments, **options)

    work.play((scripted, code), (scripted_child, tidy))
    run = scripted.enqueue(1)
    work.run()
    with monkeypatch.context() as patch:
        patch.setattr(runs, "lock", lock_too_late)
        assert scripted_child.cancel(scripted_child.Input.objects.get().key)
    work.run()
    assert run.result(timeout=0) == "Deleted"


def test_the_caller_of_a_parked_workflow_that_is_cancelled_is_told(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(scripted_child, "child")
        except StepFailed as failure:
            return failure.type_name

    work.play((scripted, code), (scripted_child, tidy))
    run = scripted.enqueue(1)
    work.run()
    by_hand.engine(scripted_child, crashes=3, available_at=work.now)
    work.run()
    assert scripted_child.Input.objects.failed().count() == 1
    assert scripted_child.cancel(scripted_child.Input.objects.get().key)
    work.run()
    assert run.result(timeout=0) == "Deleted"
    assert nothing_is_left()


def test_cancelling_while_the_run_runs(work: Clockwork) -> None:
    work.play((scripted, tidy))
    scripted.enqueue("me", key="task")
    claim = by_hand.claim_one(scripted)
    outcome = work.outcome(claim)
    scripted.cancel("task")
    work.hold(claim, outcome)
    work.run()
    assert undone() == ["first me", "second me"]
    assert nothing_is_left()


def test_cancelling_a_run_that_is_about_to_end_comes_too_late(work: Clockwork) -> None:
    run = scripted.enqueue("me", key="task")
    claim = by_hand.claim_one(scripted)
    outcome = work.outcome(claim)
    assert scripted.cancel("task")
    work.hold(claim, outcome)
    work.run()
    assert run.result(timeout=0) == "me"
    assert nothing_is_left()


@committed
def test_a_run_is_cancelled_or_finished_never_both(work: Clockwork) -> None:
    runs = [scripted.enqueue(number, key=f"task {number}") for number in range(6)]
    for claim in by_hand.claim_all(scripted):
        work.hold(claim, Done(claim.value))
    cancels = [lambda run=run: scripted.cancel(run.key) for run in runs]
    by_hand.in_threads(work.run, *cancels)
    work.run()
    assert sorted(scripted.Output.objects.values_list("value", flat=True)) == list(range(6))
    assert nothing_is_left()


@pytest.mark.parametrize("way", ["restarted", "again"])
def test_what_was_cancelled_before_can_be_cancelled_again_in_its_next_life(work: Clockwork, way: str) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(approve, "never")
        except asyncio.CancelledError:
            if x == "again":
                ctx.continue_as_new("again, again")
            await ctx.call(record, "cancelled")
            raise

    work.play((scripted, code))
    scripted.enqueue(way, key="task")
    work.run()
    scripted.cancel("task")
    work.run(scripted)
    if way == "restarted":
        scripted.restart("task")
    work.run(scripted)
    assert scripted.Input.objects.get().branch == 1, scripted.Input.objects.get().error
    assert approve.Input.objects.count() == 1
    scripted.cancel("task")
    work.run()
    assert nothing_is_left()
    assert undone() == ["cancelled"]


def test_a_restart_forgets_a_cancellation_that_was_not_taken_yet(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(approve, "ready?", key="ready")

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    scripted.cancel("task")
    scripted.restart("task")
    work.run()
    approve.push("ready", True)
    work.run()
    assert run.result(timeout=0) is True


@committed
@needs_row_locks
def test_cancelling_waits_for_nobody_elses_rows(work: Clockwork) -> None:
    """A child whose row somebody holds is left to the sweep."""
    work.play((scripted, tidy))
    scripted.enqueue("me", key="task")
    work.run()
    scripted.cancel("task")

    def meanwhile() -> None:
        for _ in range(20):
            work.step(scripted, record)

    with transaction.atomic():
        list(approve.Input.objects.select_for_update())
        by_hand.in_threads(meanwhile)
        assert not scripted.Input.objects.exists()
    assert approve.Input.objects.count() == 1
    work.sweep(scripted, approve)
    assert nothing_is_left()


# Compensating


async def saga(x: Any, ctx: Any) -> Any:
    """Three pieces of work, each with its undoing, and then what `x` says."""
    for name in "abc":
        await ctx.call(double, 1)
        ctx.compensate(record, name)
    if x == "exits":
        sys.exit(1)
    await ctx.call(*{"fails": (boom, "no"), "waits": (approve, "never"), "goes well": (double, 1)}[x])
    return x


def test_a_failed_run_undoes_its_work_last_first_and_stays_with_its_steps(work: Clockwork) -> None:
    work.play((scripted, saga))
    run = scripted.enqueue("fails")
    work.run()
    assert undone() == ["c", "b", "a"]
    with pytest.raises(RunFailed, match="Boom: no"):
        run.result(timeout=0)
    assert scripted.Step.objects.count() == 7


def test_a_run_that_exits_undoes_its_work(work: Clockwork) -> None:
    work.play((scripted, saga))
    run = scripted.enqueue("exits")
    work.run()
    assert undone() == ["c", "b", "a"]
    with pytest.raises(RunFailed, match="SystemExit"):
        run.result(timeout=0)


def test_a_run_that_goes_well_undoes_nothing(work: Clockwork) -> None:
    work.play((scripted, saga))
    run = scripted.enqueue("goes well")
    work.run()
    assert (run.result(timeout=0), undone()) == ("goes well", [])


def test_a_cancelled_run_undoes_its_work(work: Clockwork) -> None:
    work.play((scripted, saga))
    scripted.enqueue("waits", key="task")
    work.run()
    scripted.cancel("task")
    work.run()
    assert undone() == ["c", "b", "a"]
    assert nothing_is_left()


def test_a_second_cancellation_does_not_disturb_the_undoing(work: Clockwork) -> None:
    work.play((scripted, saga))
    scripted.enqueue("fails", key="task")
    while not record.Input.objects.exists():
        work.step(scripted, double, boom)
    scripted.cancel("task")
    work.run()
    assert undone() == ["c", "b", "a"]


def test_an_undoing_that_fails_is_shown_and_the_rest_still_runs(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        ctx.compensate(record, "first")
        ctx.compensate(boom, "cannot be undone")
        ctx.compensate(record, "last")
        await ctx.call(boom, "the work itself")

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert undone() == ["last", "first"]
    with pytest.raises(RunFailed, match="cannot be undone") as failed:
        run.result(timeout=0)
    assert "the work itself" in failed.value.error


def test_a_child_that_undid_its_work_tells_its_caller_why(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(scripted_child, x)
        except StepFailed as failure:
            return failure.type_name, undone_then()

    def undone_then() -> str:
        return "told"

    work.play((scripted, code), (scripted_child, saga))
    run = scripted.enqueue("fails")
    work.run()
    assert run.result(timeout=0) == ["StepFailed", "told"]
    assert undone() == ["c", "b", "a"]
    assert nothing_is_left()


def test_after_an_undoing_a_run_can_be_restarted(work: Clockwork) -> None:
    async def mended(x: Any, ctx: Any) -> Any:
        return await saga("goes well", ctx)

    work.play((scripted, saga))
    run = scripted.enqueue("fails", key="task")
    work.run()
    work.play((scripted, mended))
    assert scripted.restart("task")
    work.run()
    assert run.result(timeout=0) == "goes well"
    assert undone() == ["c", "b", "a"]
