"""What the sweep repairs of workflows, that it does nothing twice, and what turns cost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.sweep import Sweeper
from tests.queues import by_hand
from tests.queues.clockwork import Clockwork
from tests.testapp.models import Ledger
from tests.testapp.pipelines import approve, double, record, scripted, scripted_child

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)
needs_row_locks = pytest.mark.skipif("sqlite" in str(connection.vendor), reason="SQLite locks no rows")

WRITES = ("INSERT", "UPDATE", "DELETE")


def code(timed: bool) -> Any:
    """Waits for a call, with or without a timer running beside it."""

    async def waits(x: Any, ctx: Any) -> Any:
        nap = asyncio.create_task(asyncio.sleep(3600)) if timed else None
        try:
            return await ctx.call(approve, "ready?", key=ctx.key)
        except Exception as error:
            return str(error)
        finally:
            if nap:
                nap.cancel()

    return waits


def is_idle(work: Clockwork, *pipelines: Any) -> bool:
    """Whether a sweep finds nothing to do, and a worker neither."""
    with CaptureQueriesContext(
        connection,
    ) as queries:
        swept = work.sweep(*pipelines)
    writes = [query["sql"] for query in queries.captured_queries if query["sql"].startswith(WRITES)]
    return not swept and not writes and work.run(*pipelines) == 0


# Repairs


@pytest.mark.parametrize("timed", [False, True], ids=["", "with a timer"])
def test_a_run_whose_step_was_done_without_a_word_is_woken_once(work: Clockwork, timed: bool) -> None:
    work.play((scripted, code(timed)))
    run = scripted.enqueue(1, key="task")
    work.run()
    # As after a crash between the two transactions of an atomic activity.
    approve.Input.objects.all()._raw_delete("default")
    plain(scripted.Step, "default").filter(pipeline="approve").update(result=True, done_at=work.now)
    assert work.run() == 0
    assert work.sweep(scripted) == {"scripted"}
    deliveries = plain(scripted.Input, "default").get().deliveries
    assert work.sweep(scripted) == set()
    assert plain(scripted.Input, "default").get().deliveries == deliveries
    work.run()
    assert run.result(timeout=0) is True
    assert is_idle(work, scripted, approve)


@pytest.mark.parametrize("timed", [False, True], ids=["", "with a timer"])
def test_a_run_whose_child_vanished_is_told_once(work: Clockwork, timed: bool) -> None:
    work.play((scripted, code(timed)))
    run = scripted.enqueue(1, key="task")
    work.run()
    approve.Input.objects.all()._raw_delete("default")
    assert work.sweep(scripted) == {"scripted"}
    assert work.sweep(scripted) == set()
    work.run()
    assert "Vanished" in run.result(timeout=0)
    assert is_idle(work, scripted, approve)


@pytest.mark.parametrize("timed", [False, True], ids=["", "with a timer"])
def test_a_sweep_of_what_is_well_writes_nothing(work: Clockwork, timed: bool) -> None:
    work.play((scripted, code(timed)))
    for number in range(3):
        scripted.enqueue(number, key=f"task {number}")
    work.run()
    assert is_idle(work, scripted, approve)
    assert approve.Input.objects.count() == 3


def test_a_child_whose_step_was_cancelled_is_deleted_by_the_sweep(work: Clockwork) -> None:
    work.play((scripted, code(False)))
    scripted.enqueue(1, key="task")
    work.run()
    plain(scripted.Step, "default").update(cancelled_at=work.now)
    before = by_hand.state(scripted.Input.objects.get())
    work.sweep(approve, scripted)
    assert not approve.Input.objects.exists()
    assert by_hand.state(scripted.Input.objects.get()) == before  # nobody waits for it, so nobody is woken
    assert is_idle(work, scripted, approve)


def test_a_child_workflow_whose_step_was_cancelled_is_asked_once(work: Clockwork) -> None:
    async def child(x: Any, ctx: Any) -> Any:
        try:
            await ctx.receive("never")
        finally:
            await ctx.call(record, "cleaned up")

    async def parent(x: Any, ctx: Any) -> Any:
        return await ctx.call(scripted_child, x)

    work.play((scripted, parent), (scripted_child, child))
    scripted.enqueue(1, key="task")
    work.run()
    plain(scripted.Step, "default").update(cancelled_at=work.now)
    for _ in range(3):
        work.sweep(scripted_child, scripted)
    assert scripted_child.Message.objects.count() == 1
    assert plain(scripted_child.Input, "default").get().deliveries == 1
    work.run()
    assert Ledger.objects.get().name == "cleaned up"
    assert is_idle(work, scripted, scripted_child)


@committed
@needs_row_locks
def test_a_sweep_waits_for_nobody(work: Clockwork) -> None:
    work.play((scripted, code(False)))
    for number in range(2):
        scripted.enqueue(number, key=f"task {number}")
    work.run()
    plain(scripted.Step, "default").update(cancelled_at=work.now)
    with transaction.atomic():
        list(approve.Input.objects.filter(key="task 0").select_for_update())
        (swept,) = by_hand.in_threads(lambda: work.sweep(approve, scripted))
        assert swept == set()
        assert [entry.key for entry in approve.Input.objects.all()] == ["task 0"]
    work.sweep(approve, scripted)
    assert not approve.Input.objects.exists()


@committed
@needs_row_locks
def test_a_child_workflow_that_was_locked_when_it_was_cancelled_cleans_up_later(work: Clockwork) -> None:
    async def child(x: Any, ctx: Any) -> Any:
        try:
            await ctx.receive("never")
        finally:
            await ctx.call(record, "cleaned up")

    async def parent(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(scripted_child, x, timeout=60)
        except TimeoutError:
            return "too late"

    work.play((scripted, parent), (scripted_child, child))
    run = scripted.enqueue(1, key="task")
    work.run()

    def meanwhile() -> None:
        work.later(scripted, seconds=61)

    with transaction.atomic():
        list(scripted_child.Input.objects.select_for_update())
        by_hand.in_threads(meanwhile)
        assert run.result.__self__.look() == ("too late",)
    assert scripted_child.Message.objects.count() == 0
    for _ in range(2):
        work.sweep(scripted_child, scripted)
    assert scripted_child.Message.objects.count() == 1
    work.run()
    assert Ledger.objects.get().name == "cleaned up"
    assert not scripted_child.Input.objects.exists()


def test_a_result_that_crosses_its_cancellation_bothers_nobody(work: Clockwork) -> None:
    async def parent(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(double, x, timeout=60)
        except TimeoutError:
            return await ctx.call(approve, "go on?", key="go")

    work.play((scripted, parent))
    run = scripted.enqueue(1, key="task")
    work.run(scripted)
    child = by_hand.claim_one(double)
    work.ahead = work.ahead.__class__(seconds=61)
    (claim,) = work.turn(work.targets(scripted)).claims
    outcome = work.outcome(claim)  # it has cancelled the call ...
    by_hand.settle(child, Done(2))  # ... which is done just now
    work.hold(claim, outcome)
    work.run(scripted)
    for _ in range(2):
        assert is_idle(work, scripted, double)
    work.forget()
    approve.push("go", True)
    work.run()
    assert run.result(timeout=0) is True


# Locks


@committed
@needs_row_locks
def test_a_turn_does_not_wait_for_a_neighbour_in_a_small_table(
    work: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeteer_django.queues.database.LOCK_TIMEOUT", 1)
    work.play((scripted, code(True)))
    for key in "ab":
        scripted.enqueue(1, key=key)
    for claim in by_hand.claim_all(scripted):
        work.hold(claim, work.outcome(claim))
    with transaction.atomic():
        list(scripted.Input.objects.filter(key="a").select_for_update())
        (turn,) = by_hand.in_threads(work.turn)
        assert [ticket.claim.key for ticket in turn.settled.done] == ["b"]
        assert [ticket.claim.key for ticket in turn.settled.later] == ["a"]


# What it costs


async def suspends(x: Any, ctx: Any) -> Any:
    await ctx.all(*(ctx.call(double, number) for number in range(3)))


async def sleeps(x: Any, ctx: Any) -> Any:
    await asyncio.wait([asyncio.create_task(asyncio.sleep(seconds)) for seconds in (60, 120)])


async def sends(x: Any, ctx: Any) -> Any:
    await ctx.all(*(ctx.send(scripted_child, f"r{x}", "word", number) for number in range(2)))


async def gives_up(x: Any, ctx: Any) -> Any:
    calls = [ctx.call(double, x), ctx.call(scripted_child, x), ctx.call(double, x, key=f"k{x}")]
    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*calls)
    except TimeoutError:
        await ctx.call(double, x, key=f"k{x}")


async def listens(x: Any, ctx: Any) -> Any:
    await ctx.receive("word")


def statements(work: Clockwork, turns: list[float]) -> list[int]:
    """How many statements each of these turns takes, each after so many seconds."""
    counts = []
    for seconds in turns:
        work.ahead += work.ahead.__class__(seconds=seconds)
        targets = work.targets(scripted, scripted_child)
        with CaptureQueriesContext(connection) as queries:
            turn = work.turn(targets)
        counts.append(len(queries))
        for claim in turn.claims:
            work.hold(claim, work.outcome(claim))
    return counts


@pytest.mark.parametrize(
    ("script", "turns"),
    [(suspends, [0, 0, 0]), (sleeps, [0, 0, 61, 0, 61, 0]), (sends, [0, 0, 0, 0]), (gives_up, [0, 0, 0, 61, 0, 0])],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_number_of_statements_does_not_grow_with_the_runs(work: Clockwork, script: Any, turns: Any) -> None:
    work.play((scripted, script), (scripted_child, listens))
    counts = []
    for number, many in enumerate((1, 30)):
        scripted.enqueue_many([100 * number + x for x in range(many)])
        if script is sends:
            for x in range(many):
                scripted_child.enqueue(1, key=f"r{100 * number + x}")
        counts.append(statements(work, turns))
        for pipeline in (scripted, scripted_child, double):
            pipeline.Input.objects.all().delete()
        work.forget()
        work._tickets.clear()
    assert counts[0] == counts[1]
    assert max(counts[1]) < 60


def test_cancelling_many_runs_takes_as_many_statements_as_cancelling_one(work: Clockwork) -> None:
    work.play((scripted, listens))
    counts = []
    for many in (1, 30):
        scripted.enqueue_many(range(many))
        work.run()
        with CaptureQueriesContext(connection) as queries:
            assert scripted.Input.objects.all().cancel() == many
        counts.append(len(queries))
        work.run()
        assert not scripted.Input.objects.exists()
    assert counts[0] == counts[1]


def test_a_sweeper_remembers_where_it_was(monkeypatch: pytest.MonkeyPatch, work: Clockwork) -> None:
    monkeypatch.setattr("pipeteer_django.queues.sweep.PAGE", 2)
    work.play((scripted, code(True)))
    for number in range(5):
        scripted.enqueue(number, key=f"task {number}")
    work.run()
    approve.Input.objects.all()._raw_delete("default")
    sweeper = Sweeper([scripted], "default")
    for _ in range(4):
        sweeper.sweep()
    work.run()
    assert scripted.Output.objects.count() == 5
