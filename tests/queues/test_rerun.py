"""Running again from a step on, and correcting what a step came to."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from pipeteer_django.exceptions import EntryChanged, InvalidValue, RunFailed, RunGone
from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.queues import runs
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.rows import lock
from pipeteer_django.queues.unchanged import Seen
from pipeteer_django.queues.unchanged import correct as correct_unchanged
from tests.queues import by_hand
from tests.queues.clockwork import Clockwork
from tests.testapp.models import Ledger
from tests.testapp.pipelines import approve, boom, double, scripted, scripted_child, trace

pytestmark = pytest.mark.django_db


async def line(x: Any, ctx: Any) -> Any:
    """Three calls, one after the other, each with a trace, and then a question."""
    said = [await ctx.call(trace, f"{x}{number}") for number in range(3)]
    return [*said, await ctx.call(approve, "ready?", key=f"{ctx.key} ready")]


def traces() -> list[str]:
    return list(Ledger.objects.order_by("id").values_list("name", flat=True))


def steps(branch: int) -> list[tuple[int, str]]:
    return list(scripted.Step.objects.filter(branch=branch).order_by("index").values_list("index", "pipeline"))


def answer(work: Clockwork, key: str, value: bool = True) -> None:
    assert approve.push(key, value)
    work.run()


# rerun


@pytest.mark.parametrize("from_step", [0, 1, 3])
def test_a_live_run_goes_on_from_a_step(work: Clockwork, from_step: int) -> None:
    work.play((scripted, line))
    run = scripted.enqueue("x", key="task")
    work.run()
    assert scripted.rerun("task", from_step=from_step).id == run.id
    assert approve.Input.objects.count() == 0
    work.run()
    assert traces() == ["x0", "x1", "x2", *["x0", "x1", "x2"][from_step:]]
    answer(work, "task ready")
    assert run.result(timeout=0) == ["x0", "x1", "x2", True]
    assert [index for index, _ in steps(0)] == list(range(from_step, 4))
    assert [index for index, _ in steps(1)] == [0, 1, 2, 3]


def test_a_failed_run_goes_on_from_a_step(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        first = await ctx.call(trace, "first")
        return first, await ctx.call(boom, "no")

    async def mended(x: Any, ctx: Any) -> Any:
        first = await ctx.call(trace, "first")
        return first, await ctx.call(double, x)

    work.play((scripted, code))
    run = scripted.enqueue(2, key="task")
    work.run()
    work.play((scripted, mended))
    scripted.rerun("task", from_step=1)
    work.run()
    assert (run.result(timeout=0), traces()) == (["first", 4], ["first"])


def test_a_finished_run_goes_on_as_a_new_one_with_a_copy(work: Clockwork) -> None:
    work.play((scripted, line))
    run = scripted.enqueue("x", key="task", output="mine")
    work.run()
    answer(work, "task ready")
    again = scripted.rerun("task", from_step=2)
    assert again.id != run.id
    work.run()
    assert traces() == ["x0", "x1", "x2", "x2"]
    answer(work, "task ready", False)
    assert (run.result(timeout=0)[-1], again.result(timeout=0)[-1]) == (True, False)
    assert scripted.Output.objects.filter(output="mine").count() == 2
    assert scripted.Step.objects.filter(run_id=run.id).count() == 4


def test_a_run_that_never_was() -> None:
    with pytest.raises(RunGone):
        scripted.rerun("nobody", from_step=0)
    scripted.enqueue(1, key="task")
    with pytest.raises(InvalidValue, match="no step 0"):
        scripted.rerun("task", from_step=0)
    assert scripted.Input.objects.get().branch == 0


def test_a_key_that_is_in_the_queue_again_means_that_run(work: Clockwork) -> None:
    work.play((scripted, line))
    scripted.enqueue("x", key="task")
    work.run()
    answer(work, "task ready")
    live = scripted.enqueue("y", key="task")
    work.run()
    assert scripted.rerun("task", from_step=3).id == live.id


async def words(x: Any, ctx: Any) -> Any:
    """A word, a call, a word, and a question."""
    first = await ctx.receive("word")
    await ctx.call(trace, first)
    second = await ctx.receive("word")
    await ctx.call(trace, second)
    await ctx.call(approve, "ready?", key=f"{ctx.key} ready")
    return [first, second]


@pytest.mark.parametrize("from_step", [0, 1, 2])
@pytest.mark.parametrize("finished", [False, True], ids=["live", "finished"])
def test_messages_after_the_cut_are_received_again(work: Clockwork, from_step: int, finished: bool) -> None:
    work.play((scripted, words))
    scripted.enqueue(1, key="task")
    for word in "ab":
        scripted.send("task", "word", word)
    work.run()
    if finished:
        answer(work, "task ready")
    again = scripted.rerun("task", from_step=from_step)
    work.run()
    answer(work, "task ready")
    assert again.result(timeout=0) == ["a", "b"]
    assert traces() == ["a", "b", *["a", "b"][from_step:]]


def test_results_after_the_cut_are_taken_again_and_open_children_still_deliver(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        calls = [ctx.call(approve, str(number), key=str(number)) for number in range(3)]
        await calls[0]
        await ctx.call(trace, "after 0")
        return [*await asyncio.gather(*calls), await ctx.call(approve, "last", key="last")]

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    for key in "01":
        answer(work, key)
    old = approve.Input.objects.get(key="2")
    scripted.rerun("task", from_step=3)
    assert [entry.pk for entry in approve.Input.objects.all()] == [old.pk]
    work.run()
    answer(work, "2", False)
    answer(work, "last")
    assert run.result(timeout=0) == [True, True, False, True]
    assert traces() == ["after 0", "after 0"]


def test_timers_before_the_cut_keep_their_time_and_those_after_it_begin_anew(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        await ctx.sleep(600)
        await ctx.call(double, 1)
        await ctx.sleep(600)
        return await ctx.call(approve, "ready?", key="ready")

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    work.later(seconds=601)
    work.later(seconds=601)
    kept, ended = (scripted.Step.objects.get(index=index) for index in (0, 2))
    work.ahead += timedelta(hours=1)
    scripted.rerun("task", from_step=1)
    work.run()
    again = scripted.Step.objects.get(index=2, branch=1)
    assert scripted.Step.objects.get(index=0) == kept
    assert (again.param > ended.param, again.done_at) == (True, None)
    assert not approve.Input.objects.exists()
    work.later(seconds=601)
    answer(work, "ready")
    assert run.result(timeout=0) is True


def test_a_timer_that_went_off_after_the_cut_goes_off_once_more(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        log: list[str] = []

        async def nap() -> None:
            await ctx.sleep(600)
            log.append("timer")

        task = asyncio.create_task(nap())
        await ctx.call(trace, "first")
        await ctx.call(trace, "second")
        await task
        await ctx.call(approve, "ready?", key="ready")
        return log

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    work.later(seconds=601)
    scripted.rerun("task", from_step=2)
    work.run()
    answer(work, "ready")
    assert (run.result(timeout=0), traces()) == (["timer"], ["first", "second", "second"])
    orders = sorted(scripted.Step.objects.filter(branch=1, order__isnull=False).values_list("order", flat=True))
    assert orders == list(range(1, len(orders) + 1))


def test_a_worker_that_runs_it_at_that_moment_loses_by_the_fence(work: Clockwork) -> None:
    work.play((scripted, line))
    run = scripted.enqueue("x", key="task")
    work.run()
    approve.push("task ready", True)
    (zombie,) = by_hand.claim_all(scripted)
    outcome = work.outcome(zombie)
    assert isinstance(outcome, Done)
    scripted.rerun("task", from_step=3)
    assert len(by_hand.settle(zombie, outcome).lost) == 1
    assert scripted.Output.objects.count() == 0
    work.forget()
    work.run()
    answer(work, "task ready", False)
    assert run.result(timeout=0)[-1] is False


def test_a_kept_step_that_was_cancelled_parks_the_run_with_words(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        open_call = ctx.call(approve, "open", key="open")
        if await ctx.call(approve, "shall I?", key="shall I"):
            open_call.cancel()
        else:
            await open_call
        return await ctx.call(approve, "ready?", key="ready")

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    answer(work, "shall I")
    scripted.correct("task", step=1, value=False)
    work.run()
    with pytest.raises(RunFailed, match="rerun it from step 0"):
        run.result(timeout=0)
    scripted.rerun("task", from_step=0)
    work.run()
    answer(work, "shall I", False)
    answer(work, "open")
    answer(work, "ready")
    assert run.result(timeout=0) is True


@pytest.mark.parametrize("finished", [False, True], ids=["live", "finished"])
def test_a_cancellation_before_the_cut_stays_part_of_the_record(work: Clockwork, finished: bool) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.call(approve, "never")
        except asyncio.CancelledError:
            await ctx.call(trace, "cancelled")
        await ctx.call(trace, "after")
        return await ctx.call(approve, "ready?", key="task ready")

    work.play((scripted, code))
    scripted.enqueue(1, key="task")
    work.run()
    scripted.cancel("task")
    work.run()
    if finished:
        answer(work, "task ready")
    again = scripted.rerun("task", from_step=2)
    work.run()
    answer(work, "task ready", False)
    assert (again.result(timeout=0), traces()) == (False, ["cancelled", "after", "after"])


def test_a_run_that_was_being_cancelled_goes_on(work: Clockwork) -> None:
    work.play((scripted, line))
    run = scripted.enqueue("x", key="task")
    work.run()
    scripted.cancel("task")
    scripted.rerun("task", from_step=2)
    work.run()
    answer(work, "task ready")
    assert run.result(timeout=0)[-1] is True


# correct


async def sums(x: Any, ctx: Any) -> Any:
    """Twice a number, and twice that, and a question."""
    first = await ctx.call(double, x)
    second = await ctx.call(double, first)
    return [first, second, await ctx.call(approve, "ready?", key=f"{ctx.key} ready")]


def test_a_step_that_was_done_gets_another_result(work: Clockwork) -> None:
    work.play((scripted, sums))
    run = scripted.enqueue(1, key="task")
    work.run()
    scripted.correct("task", step=0, value=100)
    assert not approve.Input.objects.exists()
    work.run()
    answer(work, "task ready")
    assert run.result(timeout=0) == [100, 200, True]
    history = scripted.Step.objects.filter(branch=0).order_by("index").values_list("index", "result")
    assert list(history) == [(0, 2), (1, 4), (2, None)]


def test_a_step_that_had_failed_gets_a_result(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(boom, "no"), await ctx.call(double, x)

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    assert scripted.Input.objects.failed().count() == 1
    scripted.correct("task", step=0, value=7)
    work.run()
    assert run.result(timeout=0) == [7, 2]
    assert plain(scripted.Step, "default").get(branch=0).error["type"] == "Boom"


def test_a_step_that_is_open_is_completed_with_its_child(work: Clockwork) -> None:
    work.play((scripted, sums))
    run = scripted.enqueue(1, key="task")
    work.run(scripted)
    zombie = by_hand.claim_one(double)
    scripted.correct("task", step=0, value=100)
    assert not double.Input.objects.exists()
    assert len(by_hand.settle(zombie, Done(2)).lost) == 1
    work.run()
    answer(work, "task ready")
    assert run.result(timeout=0) == [100, 200, True]
    assert scripted.Step.objects.filter(branch=1).count() == 0


def test_a_step_that_comes_to_its_end_in_the_moment_of_its_correction(
    work: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An atomic child may: it records its result without its caller's row, which whoever corrects has locked."""
    work.play((scripted, sums))
    scripted.enqueue(1, key="task")
    work.run(scripted)

    def too_late(child: Any, using: str, id: int, outcome: Any) -> bool:
        plain(child.Input, using).filter(pk=id).delete()
        plain(scripted.Step, using).update(result=2, done_at=timezone.now())
        return False

    before = by_hand.state(scripted.Input.objects.get())
    monkeypatch.setattr(runs, "complete", too_late)
    with pytest.raises(EntryChanged, match="Look again"):
        scripted.correct("task", step=0, value=100)
    assert by_hand.state(scripted.Input.objects.get()) == before


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif("sqlite" in str(connection.vendor), reason="SQLite locks no rows")
@pytest.mark.parametrize("page", [False, True], ids=["code", "page"])
def test_whoever_corrects_a_step_and_whoever_completes_its_entry_do_not_block_each_other(
    work: Clockwork, monkeypatch: pytest.MonkeyPatch, page: bool
) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(approve, "?")

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    ids = {pipeline.id: [pipeline.Input.objects.get().pk] for pipeline in (approve, scripted)}
    both = threading.Barrier(2, timeout=0.5)

    def meet() -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait()

    def complete() -> None:
        """What a settle locks, with a pause in the middle."""
        with transaction.atomic():
            for id in (approve.id, scripted.id):
                lock("default", {id: ids[id]}, wait=True)
                meet()

    def correct() -> None:
        if page:
            correct_unchanged(scripted, "default", Seen(run.id, 0), 0, None, True)
        else:
            scripted.correct("task", step=0, value=True)

    monkeypatch.setattr(runs, "_typed", lambda step, value, typed=runs._typed: meet() or typed(step, value))
    assert by_hand.in_threads(complete, correct) == [None, None]
    work.run()
    assert run.result(timeout=0) is True


def test_an_open_child_workflow_is_completed_with_all_it_had_open(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(scripted_child, x)

    work.play((scripted, code), (scripted_child, sums))
    run = scripted.enqueue(1, key="task")
    work.run()
    assert approve.Input.objects.count() == 1
    scripted.correct("task", step=0, value="by hand")
    work.run()
    assert run.result(timeout=0) == "by hand"
    assert not approve.Input.objects.exists()
    assert not scripted_child.Input.objects.exists()


def test_a_timer_is_ended_by_hand(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        await ctx.sleep(3600)
        return "awake"

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    scripted.correct("task", step=0, value=None)
    work.run()
    assert run.result(timeout=0) == "awake"


def test_a_result_that_the_run_has_not_taken_yet(work: Clockwork) -> None:
    work.play((scripted, sums))
    run = scripted.enqueue(1, key="task")
    work.run(scripted)
    by_hand.settle(by_hand.claim_one(double), Done(2))
    scripted.correct("task", step=0, value=100)
    work.run()
    answer(work, "task ready")
    assert run.result(timeout=0) == [100, 200, True]


def test_parallel_calls_are_kept_and_taken_again(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return [
            *await ctx.all(*(ctx.call(double, number) for number in range(3))),
            await ctx.call(approve, "?", key="a"),
        ]

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    scripted.correct("task", step=1, value=100)
    assert work.run(double) == 0
    work.run()
    answer(work, "a")
    assert run.result(timeout=0) == [0, 100, 4, True]


def test_a_result_of_another_type_is_refused_and_changes_nothing(work: Clockwork) -> None:
    work.play((scripted, sums))
    scripted.enqueue(1, key="task")
    work.run()
    before = by_hand.state(scripted.Input.objects.get())
    for step, value in [(0, "many"), (2, "perhaps")]:
        with pytest.raises(InvalidValue):
            scripted.correct("task", step=step, value=value)
    with pytest.raises(InvalidValue, match="no step 3"):
        scripted.correct("task", step=3, value=1)
    assert by_hand.state(scripted.Input.objects.get()) == before


def test_what_has_no_result_cannot_be_corrected(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        ctx.uuid()
        await ctx.send(scripted_child, "nobody", "word")

    work.play((scripted, code))
    scripted.enqueue(1, key="task")
    work.run()
    for step in (0, 1):
        with pytest.raises(InvalidValue, match="no result that could be corrected"):
            scripted.correct("task", step=step, value=1)


def test_corrected_twice(work: Clockwork) -> None:
    work.play((scripted, sums))
    run = scripted.enqueue(1, key="task")
    work.run()
    for value in (100, 1000):
        scripted.correct("task", step=0, value=value)
        work.run()
    answer(work, "task ready")
    assert run.result(timeout=0) == [1000, 2000, True]
    history = sorted(scripted.Step.objects.filter(index=0).values_list("branch", "result"))
    assert history == [(0, 2), (1, 100), (2, 1000)]
