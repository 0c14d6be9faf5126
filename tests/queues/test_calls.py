"""What a workflow may say about a call: its key, when, how urgent, how long, how often; the first of many, and maps."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from pipeteer_django.exceptions import InvalidValue, RunFailed, StepFailed
from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.queues import births, rows, settle, turn
from pipeteer_django.queues.claim import plain
from tests import mutants
from tests.queues import by_hand
from tests.queues.clockwork import Clockwork
from tests.testapp.models import Ledger
from tests.testapp.pipelines import (
    approve,
    boom_thrice,
    double,
    odd_fails,
    record,
    scripted,
    scripted_child,
    scripted_grandchild,
    trace,
)

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)
needs_row_locks = pytest.mark.skipif("sqlite" in str(connection.vendor), reason="SQLite has one writer at a time")


def states(index: int | None = None) -> Any:
    """(pipeline, done, cancelled) of each step of `scripted`, or of one."""
    steps = [
        (step.pipeline, step.done_at is not None, step.cancelled_at is not None)
        for step in scripted.Step.objects.order_by("run_id", "branch", "index")
    ]
    return steps if index is None else steps[index]


# key


def test_a_child_has_the_key_it_is_given(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(approve, "ready?", key="order-1")

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run(scripted)
    assert approve.push("order-1", True)
    work.run(scripted)
    assert run.result(timeout=0) is True


def test_a_key_that_is_taken_fails_the_step_and_leaves_the_other_alone(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(approve, "mine?", key="taken")
        except StepFailed as failure:
            return f"{failure.pipeline} {failure.type_name}"

    work.play((scripted, code))
    theirs = approve.enqueue("theirs?", key="taken")
    run = scripted.enqueue(1)
    work.run(scripted)
    assert run.result(timeout=0) == "approve DuplicateKey"
    assert [entry.pk for entry in approve.Input.objects.all()] == [theirs.id]
    assert states() == [("approve", True, False)]


def test_of_two_calls_with_one_key_in_a_turn_the_first_has_it(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        calls = [ctx.call(double, number, key="one") for number in (1, 2)]
        return [str(result) for result in await asyncio.gather(*calls, return_exceptions=True)]

    work.play((scripted, code))
    runs = [scripted.enqueue(1) for _ in range(3)]
    work.run(scripted, double)
    results = [run.result(timeout=0) for run in runs]
    refused = "double: DuplicateKey: double already has an entry 'one'"
    assert results == [["2", refused], [refused, refused], [refused, refused]]


def test_a_key_is_free_again_when_its_entry_is_done(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return [await ctx.call(double, number, key="again") for number in range(3)]

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run(scripted, double)
    assert run.result(timeout=0) == [0, 2, 4]


def test_a_key_is_free_again_when_its_call_timed_out(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        for _ in range(2):
            try:
                await ctx.call(approve, "ready?", key="again", timeout=60)
            except TimeoutError:
                pass
        return await ctx.call(approve, "ready?", key="again")

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    work.later(seconds=61)
    work.later(seconds=61)
    assert approve.push("again", True)
    work.run()
    assert run.result(timeout=0) is True


@committed
@needs_row_locks
@pytest.mark.parametrize("guarded", [True, False], ids=["", "mutant"])
def test_two_turns_that_give_one_key_at_the_same_time(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            return await ctx.call(double, x, key="one")
        except StepFailed as failure:
            return failure.type_name

    monkeypatch.setattr(scripted, "function", code)
    runs = [scripted.enqueue(number) for number in (1, 2)]
    workers = [Clockwork(0, monkeypatch) for _ in runs]
    claims = [by_hand.claim_one(scripted) for _ in runs]
    both_looked, looked = threading.Barrier(2, timeout=10), set[int]()
    real = births.without_duplicates

    def look(*arguments: Any) -> Any:
        found = real(*arguments)
        if threading.get_ident() not in looked:
            looked.add(threading.get_ident())
            both_looked.wait()
        return found

    monkeypatch.setattr(settle, "without_duplicates", look)
    if not guarded:
        monkeypatch.setattr(turn, "_RERUNS", 1)
    for worker, claim in zip(workers, claims, strict=True):
        worker.hold(claim, worker.outcome(claim))
    by_hand.in_threads(*(worker.turn for worker in workers))
    monkeypatch.setattr(settle, "without_duplicates", real)
    for worker in workers:
        worker.run()
    if guarded:
        assert sorted(str(run.result(timeout=0)) for run in runs) in (["2", "DuplicateKey"], ["4", "DuplicateKey"])
    else:
        with pytest.raises(RunFailed, match=r"one.*already exists|Duplicate entry"):
            [run.result(timeout=0) for run in runs]


# delay, priority, max_attempts


def test_a_delayed_call_is_made_later(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(double, x, delay=timedelta(hours=1))

    work.play((scripted, code))
    run = scripted.enqueue(2)
    before = work.now
    work.run()
    entry = double.Input.objects.get()
    assert timedelta(minutes=59) < entry.available_at - before < timedelta(minutes=61)
    work.later(minutes=58)
    assert double.Input.objects.get().attempt == 0
    work.later(minutes=3)
    assert run.result(timeout=0) == 4


def test_an_urgent_call_comes_first(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(trace, x["name"], priority=x["priority"])

    work.play((scripted, code))
    for name, priority in [("low", -100), ("middle", 0), ("high", 100)]:
        scripted.enqueue({"name": name, "priority": priority})
    work.run(scripted)
    work.run(trace)
    assert list(Ledger.objects.order_by("id").values_list("name", flat=True)) == ["high", "middle", "low"]


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_call_may_be_tried_fewer_times_than_its_activity_says(work: Clockwork, attempts: int) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(boom_thrice, "no", max_attempts=attempts)
        except StepFailed as failure:
            return failure.message

    work.play((scripted, code))
    run = scripted.enqueue(1)
    for _ in range(attempts):
        assert scripted.Output.objects.count() == 0
        work.later(hours=1)
    assert run.result(timeout=0) == "no"


# timeout


def test_a_call_that_is_not_done_in_time(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            return await ctx.call(approve, "ready?", timeout=60)
        except TimeoutError as error:
            return str(error)

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    work.later(seconds=58)
    assert approve.Input.objects.count() == 1
    work.later(seconds=3)
    assert run.result(timeout=0) == "step 0 was not done within 60 s"
    assert approve.Input.objects.count() == 0
    assert states() == [("approve", False, True), (":timer", True, False)]


def test_a_call_that_is_done_in_time_leaves_no_timer(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        first = await ctx.call(double, x, timeout=60)
        return first, await ctx.call(approve, "ready?")

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert scripted.Input.objects.get().available_at is None
    assert work.later(hours=1) == 0
    approve.push(approve.Input.objects.get().key, True)
    work.run()
    assert run.result(timeout=0) == [2, True]
    assert states(1) == (":timer", False, True)


@pytest.mark.parametrize("guarded", [True, False], ids=["", "mutant"])
def test_a_worker_that_runs_a_call_past_its_time_loses_by_the_fence(
    work: Clockwork, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            return await ctx.call(double, x, timeout=60)
        except TimeoutError:
            return "too late"

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run(scripted)
    zombie = by_hand.claim_one(double)
    work.later(scripted, seconds=61)
    assert run.result(timeout=0) == "too late"
    if not guarded:
        take_out_the_fence(monkeypatch)
    lost = by_hand.settle(zombie, Done(2)).lost
    assert (len(lost), double.Output.objects.count()) == ((1, 0) if guarded else (0, 1))
    assert double.Input.objects.count() == 0
    assert states(0) == ("double", False, True)


def take_out_the_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    for room, name in [(settle, "lock"), (settle, "hold_against"), (rows, "delete_rows"), (rows, "all_written")]:
        monkeypatch.setattr(room, name, getattr(room, name))  # so that it is put back
    mutants.no_fence()


def test_a_result_and_the_end_of_its_time_together_are_told_apart_by_time(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            return await ctx.call(double, x, timeout=60)
        except TimeoutError:
            return "too late"

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run(scripted)
    work.run(double)  # done now, long before its time is over
    work.forget()
    work.later(scripted, hours=1)
    assert run.result(timeout=0) == 2
    assert states() == [("double", True, False), (":timer", False, True)]


def test_a_time_that_no_calendar_has_makes_no_call(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(approve, "never", timeout=float("inf"))
        except InvalidValue:
            return await ctx.call(double, 1)

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert (run.result(timeout=0), states()) == (2, [("double", True, False)])


def test_no_time_at_all_makes_no_call(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            return await ctx.call(trace, "never", timeout=0)
        except TimeoutError:
            return await ctx.call(double, 1)

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert run.result(timeout=0) == 2
    assert (Ledger.objects.count(), trace.Input.objects.count()) == (0, 0)
    assert states(0) == ("trace", False, True)


# The first of several


def test_the_first_wins_and_the_others_are_cancelled(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        first = await ctx.any(ctx.call(approve, "a?", key="a"), ctx.call(double, x, delay=60), ctx.call(double, x))
        return first, await ctx.call(double, 10)

    work.play((scripted, code))
    run = scripted.enqueue(4)
    work.run()
    assert run.result(timeout=0) == [8, 20]
    assert [approve.Input.objects.count(), double.Input.objects.count()] == [0, 0]
    assert states() == [
        ("approve", False, True),
        ("double", False, True),
        ("double", True, False),
        ("double", True, False),
    ]


def test_a_loser_that_is_running_loses_by_the_fence(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.any(ctx.call(approve, "a?", key="a"), ctx.call(double, x))

    work.play((scripted, code))
    run = scripted.enqueue(4)
    work.run(scripted)
    slow = by_hand.claim_one(double)
    approve.push("a", True)
    work.run(scripted)
    assert run.result(timeout=0) is True
    assert len(by_hand.settle(slow, Done(8)).lost) == 1
    assert double.Output.objects.count() == 0


def test_two_that_are_done_together_have_one_winner_for_ever(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        winner = await ctx.any(*(ctx.call(double, number) for number in range(5)))
        return winner, await ctx.call(approve, "go on?", key="go")

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    work.forget()
    approve.push("go", True)
    work.run()
    assert run.result(timeout=0) == [0, True]
    assert work.sweep(scripted, double) == set()


def test_a_waiting_workflow_that_lost_gets_to_clean_up(work: Clockwork) -> None:
    async def child(x: Any, ctx: Any) -> Any:
        try:
            await ctx.receive("never")
        finally:
            await ctx.call(record, "cleaned up")

    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.any(ctx.call(scripted_child, x), ctx.call(approve, "a?", key="a"))

    work.play((scripted, code), (scripted_child, child))
    run = scripted.enqueue(1)
    work.run()
    approve.push("a", True)
    work.run()
    assert run.result(timeout=0) is True
    assert Ledger.objects.get().name == "cleaned up"
    assert scripted_child.Input.objects.count() == 0


def test_the_first_success_not_the_first_failure(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            return await ctx.any(*(ctx.call(odd_fails, number) for number in x))
        except StepFailed as failure:
            return failure.message

    work.play((scripted, code))
    runs = [scripted.enqueue(numbers) for numbers in ([1, 3, 4], [3, 1])]
    work.run()
    assert [run.result(timeout=0) for run in runs] == [4, "3 is odd"]


# Maps


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_a_map_has_at_most_so_many_children_and_keeps_the_order(work: Clockwork, limit: int) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.map(double, range(x), limit=limit)

    work.play((scripted, code))
    run = scripted.enqueue(20)
    work.run(scripted, double)
    assert run.result(timeout=0) == [2 * number for number in range(20)]
    assert work.most_live["double"] <= limit


def test_the_first_failure_ends_a_map(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.map(odd_fails, [0, 2, 1, 4, 6, 8, 10], limit=2)
        except StepFailed as failure:
            return failure.message, await ctx.call(double, 1)

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert run.result(timeout=0) == ["1 is odd", 2]
    assert odd_fails.Input.objects.count() == 0
    assert scripted.Step.objects.filter(pipeline="odd_fails").count() <= 4


def test_failures_may_stand_in_a_maps_results(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return [str(r) for r in await ctx.map(odd_fails, range(5), limit=2, return_exceptions=True)]

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert run.result(timeout=0) == ["0", "odd_fails: Boom: 1 is odd", "2", "odd_fails: Boom: 3 is odd", "4"]


def test_a_map_of_two_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return sum(await ctx.map(double, range(x)))

    work = Clockwork(10, monkeypatch)
    work.play((scripted, code))
    run = scripted.enqueue(2000)
    work.run(scripted, double)
    assert run.result(timeout=0) == 2000 * 1999
    assert work.most_live["double"] <= 100
    assert work.warm.replayed == 0


def test_a_map_of_nothing(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.map(double, [])

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert run.result(timeout=0) == []


# Trees


def test_a_failure_says_what_went_wrong_in_the_child(work: Clockwork) -> None:
    async def child(x: Any, ctx: Any) -> Any:
        raise ZeroDivisionError("in the child")

    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(scripted_child, x)
        except StepFailed as failure:
            return failure.pipeline, failure.type_name, failure.message, failure.traceback

    work.play((scripted, code), (scripted_child, child))
    run = scripted.enqueue(1)
    work.run()
    *said, trace_back = run.result(timeout=0)
    assert said == ["scripted_child", "ZeroDivisionError", "in the child"]
    assert "raise ZeroDivisionError" in trace_back
    assert scripted_child.Input.objects.count() == 0


def test_a_child_that_fails_takes_its_own_open_calls_along(work: Clockwork) -> None:
    async def child(x: Any, ctx: Any) -> Any:
        ctx.call(approve, "for nobody")
        await ctx.call(double, 1)
        raise ZeroDivisionError

    async def code(x: Any, ctx: Any) -> Any:
        await ctx.call(scripted_child, x)

    work.play((scripted, code), (scripted_child, child))
    run = scripted.enqueue(1)
    work.run()
    with pytest.raises(RunFailed, match="ZeroDivisionError"):
        run.result(timeout=0)
    assert approve.Input.objects.count() == 0


def test_a_parked_grandchild_keeps_everybody_waiting(work: Clockwork) -> None:
    async def grandchild(x: Any, ctx: Any) -> Any:
        return await ctx.call(double, x)

    async def impure(x: Any, ctx: Any) -> Any:
        return await ctx.call(double, x + 1)

    async def child(x: Any, ctx: Any) -> Any:
        return await ctx.call(scripted_grandchild, x)

    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(scripted_child, x)

    work.play((scripted, code), (scripted_child, child), (scripted_grandchild, grandchild))
    run = scripted.enqueue(2)
    work.run(scripted, scripted_child, scripted_grandchild)
    work.play((scripted_grandchild, impure))
    work.run()
    assert "ImpureWorkflow" in scripted_grandchild.Input.objects.failed().get().error
    assert scripted.Input.objects.waiting().count() == scripted_child.Input.objects.waiting().count() == 1
    work.play((scripted_grandchild, grandchild))
    scripted_grandchild.Input.objects.failed().retry()
    work.run()
    assert run.result(timeout=0) == 4


def tree(work: Clockwork) -> Any:
    """A run with two children, each with two of its own, all of which wait."""

    async def code(x: Any, ctx: Any) -> Any:
        return list(await ctx.all(*(ctx.call(scripted_child, f"{x}{n}") for n in range(2))))

    async def child(x: Any, ctx: Any) -> Any:
        return list(await ctx.all(*(ctx.call(approve, f"{x}{n}", key=f"{x}{n}") for n in range(2))))

    work.play((scripted, code), (scripted_child, child))
    run = scripted.enqueue("", key="root")
    work.run()
    assert (scripted_child.Input.objects.count(), approve.Input.objects.count()) == (2, 4)
    return run


def test_deleting_a_run_deletes_its_tree(work: Clockwork) -> None:
    tree(work)
    scripted.Input.objects.get().delete()
    assert not any(pipeline.Input.objects.exists() for pipeline in (scripted, scripted_child, approve))
    assert not plain(scripted_child.Step, "default").filter(cancelled_at=None).exists()


def test_restarting_a_run_deletes_its_tree_and_grows_another(work: Clockwork) -> None:
    run = tree(work)
    old = set(approve.Input.objects.values_list("pk", flat=True))
    assert scripted.restart("root")
    assert not any(pipeline.Input.objects.exists() for pipeline in (scripted_child, approve))
    work.run()
    assert old.isdisjoint(approve.Input.objects.values_list("pk", flat=True))
    for entry in approve.Input.objects.all():
        approve.push(entry.key, True)
    work.run()
    assert run.result(timeout=0) == [[True, True], [True, True]]


def test_completing_a_workflow_by_hand_deletes_what_it_had_open(work: Clockwork) -> None:
    run = tree(work)
    for entry in scripted_child.Input.objects.all():
        assert scripted_child.Input.objects.push(entry.key, "by hand")
    assert approve.Input.objects.count() == 0
    work.run()
    assert run.result(timeout=0) == ["by hand", "by hand"]


def test_retried_with_mended_code_a_run_goes_on_from_where_it_failed(work: Clockwork) -> None:
    async def broken(x: Any, ctx: Any) -> Any:
        await ctx.call(trace, "once")
        raise ZeroDivisionError

    async def mended(x: Any, ctx: Any) -> Any:
        return await ctx.call(trace, "once"), await ctx.call(double, x)

    work.play((scripted, broken))
    run = scripted.enqueue(1)
    work.run()
    with pytest.raises(RunFailed):
        run.result(timeout=0)
    work.play((scripted, mended))
    scripted.Input.objects.failed().retry()
    work.run()
    assert run.result(timeout=0) == ["once", 2]
    assert Ledger.objects.count() == 1
