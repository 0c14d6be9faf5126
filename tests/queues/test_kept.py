"""Runs kept in memory are a cache: whatever happens to their rows meanwhile, the rows win."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DataError, connection, transaction

from pipeteer_django.models import Queue
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.pipelines.replay import Run
from pipeteer_django.queues import births, fence
from pipeteer_django.queues.claim import plain
from tests.queues.clockwork import Clockwork
from tests.testapp.pipelines import add_one, approval, chain, double, fan, parent, quad

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clockwork]:
    """A small worker that keeps its runs, and claims their children in the turn that bears them."""
    clockwork = Clockwork(100, monkeypatch)
    clockwork.serves = frozenset(pipeline.id for pipeline in registry if pipeline.runs_here)
    yield clockwork
    clockwork.warm.close()


def asleep_with_a_child_done(work: Clockwork, *pipelines: Pipeline[Any, Any]) -> None:
    """The run sleeps, is kept, and its first child's outcome waits for the next turn."""
    work.step(*pipelines)  # claims the run, which calls
    work.step(*pipelines)  # settles that, claims the child and runs it
    assert len(work._tickets) == 1
    assert len(work.warm) == 1


def result(pipeline: Any) -> Any:
    return pipeline.Output.everything.get().value


def test_a_step_costs_one_turn(work: Clockwork) -> None:
    chain.enqueue(5)
    turns = 0
    while not chain.Output.everything.exists():
        work.step(chain, add_one)
        turns += 1
    # The first claims the run, the second its first child; then one a step.
    assert turns == 2 + 5
    assert result(chain) == 5
    assert work.warm.replayed == 0


def test_one_run_that_cannot_go_on_in_memory_disturbs_no_other(
    work: Clockwork, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    feed, failed = Run.feed, []

    def fails_once(run: Run, *arguments: Any) -> None:
        if not failed:
            failed.append(run)
            raise MemoryError
        feed(run, *arguments)

    for n in range(3):
        quad.enqueue(n)
    work.step(quad, double)
    work.step(quad, double)
    monkeypatch.setattr(Run, "feed", fails_once)
    for _ in range(20):
        work.step(quad, double)
    assert sorted(quad.Output.everything.values_list("value", flat=True)) == [0, 4, 8]
    assert work.warm.replayed > 0
    assert caplog.text.count("Could not go on with run") == 1


def test_several_results_for_one_run_are_one_move_of_its_row(work: Clockwork) -> None:
    fan.enqueue(7)
    work.step(fan, double)
    work.step(fan, double)
    assert len(work._tickets) == 7
    epoch = plain(fan.Input, "default").get().epoch
    tickets = work.warm.advance(work._tickets)
    (advanced,) = [ticket for ticket in tickets if ticket.advanced_by]
    assert advanced.epoch == epoch
    assert len(advanced.advanced_by) == 7
    work._tickets = tickets
    work.run(fan, double)
    assert result(fan) == [0, 2, 4, 6, 8, 10, 12]


def test_what_ends_in_memory_and_has_a_caller_delivers_in_the_same_turn(work: Clockwork) -> None:
    parent.enqueue(3)
    work.run(parent, quad, double)
    assert result(parent) == 13
    assert work.warm.replayed == 0


MOVES = {
    "restarted": lambda: quad.restart("a"),
    "edited": lambda: quad.Input.objects.update(value=5),
    "saved": lambda: quad.Input.objects.get().save(),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_run_that_somebody_moved_is_not_advanced_from_memory(work: Clockwork, name: str) -> None:
    quad.enqueue(5, key="a")
    asleep_with_a_child_done(work, quad, double)
    MOVES[name]()
    turn = work.turn()
    assert [ticket.pipeline for ticket in turn.settled.cold] == [quad]
    assert len(work.warm) == 0
    work.run(quad, double)
    assert result(quad) == 20


@pytest.mark.parametrize("name", ["restarted", "edited"])
def test_without_the_guard_memory_would_win(work: Clockwork, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant settles what memory says, whatever the row does."""

    def settle_anyway(tickets: Any, others: Any, missing: Any, locked: Any, settled: Any, using: str) -> None:
        settled.done += tickets

    monkeypatch.setattr(fence, "_fence_advanced", settle_anyway)
    quad.enqueue(5, key="a")
    asleep_with_a_child_done(work, quad, double)
    MOVES[name]()
    work.turn()
    assert quad.Step.objects.filter(index=1).exists(), "a call that the row's own run has not come to make"


def test_a_queue_on_hold_is_not_advanced(work: Clockwork) -> None:
    quad.enqueue(5)
    asleep_with_a_child_done(work, quad, double)
    Queue.objects.create(pipeline="quad", held=True)
    work.run(quad, double)
    entry = plain(quad.Input, "default").get()
    assert entry.suspended
    assert entry.available_at is not None, "awake, but nobody may take it"
    step = quad.Step.objects.get()
    assert (step.result, step.order) == (10, None)
    Queue.objects.update(held=False)
    work.run(quad, double)
    assert result(quad) == 20


def test_a_child_that_was_taken_over_advances_nothing(work: Clockwork) -> None:
    quad.enqueue(5)
    asleep_with_a_child_done(work, quad, double)
    double.Input.objects.release()
    turn = work.turn()
    assert [ticket.pipeline for ticket in turn.settled.lost] == [double]
    assert [ticket.pipeline for ticket in turn.settled.cold] == [quad]
    assert quad.Step.objects.get().done_at is None
    work.run(quad, double)
    assert result(quad) == 20


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows")
@pytest.mark.parametrize("locked", [quad, double], ids=["the run", "its child"])
def test_while_a_row_is_locked_both_wait_and_nothing_is_replayed(work: Clockwork, locked: Pipeline[Any, Any]) -> None:
    from tests.queues.by_hand import in_threads

    quad.enqueue(5)
    asleep_with_a_child_done(work, quad, double)
    with transaction.atomic():
        list(plain(locked.Input, "default").select_for_update())
        (turn,) = in_threads(lambda: work.turn())
        assert [ticket.pipeline for ticket in turn.settled.later] == [double, quad]
    work.run(quad, double)
    assert result(quad) == 20
    assert work.warm.replayed == 0


def test_an_event_that_came_meanwhile_is_taken_next(work: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(x: int, ctx: Any) -> int:
        return await ctx.call(double, x) + await ctx.receive("more", int)

    work.play((quad, both))
    quad.enqueue(5, key="a")
    asleep_with_a_child_done(work, quad, double)
    quad.send("a", "more", 100)
    work.turn()
    entry = plain(quad.Input, "default").get()
    assert entry.suspended
    assert entry.available_at is not None
    work.run(quad, double)
    assert result(quad) == 110
    assert work.warm.replayed == 0


def test_a_run_whose_outcome_cannot_be_written_is_parked_and_forgotten(
    work: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unspeakable(x: int, ctx: Any) -> int:
        return await ctx.call(double, await ctx.call(double, x), key="unspeakable")

    real = births.insert_rows

    def insert_rows(using: str, model: Any, columns: Any, rows: Any, **options: Any) -> Any:
        if any("unspeakable" in row for row in rows):
            raise DataError("the database refuses this")
        return real(using, model, columns, rows, **options)

    monkeypatch.setattr(births, "insert_rows", insert_rows)
    work.play((quad, unspeakable))
    quad.enqueue(5)
    bystander = approval.enqueue("?")
    work.run(quad, double, approval)
    entry = plain(quad.Input, "default").get()
    assert entry.failed_at is not None
    assert "the database refuses this" in entry.error
    assert (len(work.warm), work.warm._pending) == (1, {})
    assert approval.Input.objects.waiting().filter(pk=bystander.id).exists()


def test_the_least_recently_used_is_evicted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Clockwork(2, monkeypatch)
    for key in "abc":
        approval.enqueue("?", key=key)
        work.run(approval)
    assert len(work.warm) == 2
    ids = dict(plain(approval.Input, "default").values_list("key", "id"))
    assert [bool(work.warm.kept("approval", ids[key])) for key in "abc"] == [False, True, True]
    assert work.warm._steps.keys() == {
        ("approval", step) for step in approval.Step.objects.filter(run_id__gt=ids["a"]).values_list("id", flat=True)
    }
    work.warm.close()
    assert not work.warm._steps


def test_nothing_is_kept_of_runs_that_are_over(work: Clockwork) -> None:
    for number in range(10):
        quad.enqueue(number)
    fan.enqueue(20)
    parent.enqueue(1)
    work.run()
    assert len(work.warm) == 0
    assert not work.warm._steps
    assert not work.warm._pending
