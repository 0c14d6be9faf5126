"""Runs that begin again; and what is the same in every replay: chance, patches, progress, log lines."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from pipeteer_django.exceptions import RunFailed
from pipeteer_django.queues import claim
from pipeteer_django.queues.claim import plain
from tests.queues import by_hand
from tests.queues.clockwork import Clockwork
from tests.testapp.models import Ledger
from tests.testapp.pipelines import approve, double, rounds, scripted, scripted_child, trace

pytestmark = pytest.mark.django_db


def entry() -> Any:
    return plain(scripted.Input, "default").get()


# continue_as_new


def test_a_run_begins_again_under_its_key_with_an_empty_record(work: Clockwork) -> None:
    run = rounds.enqueue(2, key="task")
    seen = []
    for _ in range(20):
        work.step(rounds, double)
        seen += rounds.Input.objects.values_list("value", "branch", "key", "pk")
    assert sorted(set(seen)) == [(number, 2 - number, "task", run.id) for number in (0, 1, 2)]
    assert run.result(timeout=0) == 0
    assert rounds.Step.objects.filter(branch=2).count() == 1


def test_two_hundred_generations_leave_one_row(work: Clockwork) -> None:
    run = rounds.enqueue(200)
    work.run(rounds, double)
    assert run.result(timeout=0) == 0
    assert (work.most_live["rounds"], work.most_live["double"]) == (1, 1)


def test_a_generation_reads_nothing_of_those_before(work: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = claim.select_rows

    def select_rows(using: str, model: Any, *arguments: Any, **options: Any) -> Any:
        rows = real(using, model, *arguments, **options)
        if model in (rounds.Step, rounds.Message):
            read.append(len(rows))
        return rows

    rounds.enqueue(60)
    monkeypatch.setattr(claim, "select_rows", select_rows)
    work.run(rounds, double)
    assert max(read, default=0) <= 1


def test_messages_not_received_are_for_the_next_generation(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        word = await ctx.receive("word")
        if len(x) < 3:
            ctx.continue_as_new([*x, word])
        return [*x, word]

    work.play((scripted, code))
    run = scripted.enqueue([], key="task")
    work.run()
    for word in "abc":
        scripted.send("task", "word", word)
    work.run()
    assert entry().value == ["a", "b", "c"]
    scripted.send("task", "word", "d")
    work.run()
    assert run.result(timeout=0) == ["a", "b", "c", "d"]


def test_a_message_that_was_received_is_not_received_again(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        if x == 0:
            await ctx.receive("word")
            ctx.continue_as_new(1)
        return await ctx.receive("word", timeout=60)

    work.play((scripted, code))
    run = scripted.enqueue(0, key="task")
    scripted.send("task", "word", "once")
    work.run()
    work.later(seconds=61)
    with pytest.raises(RunFailed, match="TimeoutError"):
        run.result(timeout=0)


def test_open_calls_are_cancelled_when_a_run_begins_again(work: Clockwork) -> None:
    async def child(x: Any, ctx: Any) -> Any:
        try:
            await ctx.receive("never")
        finally:
            await ctx.call(trace, "cleaned up")

    async def code(x: Any, ctx: Any) -> Any:
        if x == 0:
            ctx.call(approve, "open")
            ctx.call(scripted_child, 1)
            asyncio.create_task(asyncio.sleep(3600))  # noqa: RUF006
            await ctx.call(double, 1)
            await ctx.sleep(60)
            ctx.continue_as_new(1)
        return "second"

    work.play((scripted, code), (scripted_child, child))
    run = scripted.enqueue(0)
    work.run()
    assert (approve.Input.objects.count(), scripted_child.Input.objects.count()) == (1, 1)
    work.later(seconds=61)
    assert run.result(timeout=0) == "second"
    assert (approve.Input.objects.count(), scripted_child.Input.objects.count()) == (0, 0)
    assert Ledger.objects.get().name == "cleaned up"
    assert not scripted.Step.objects.filter(branch=0, done_at=None, cancelled_at=None).exists()


def test_a_child_that_begins_again_still_answers_its_caller(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(rounds, 3)

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert run.result(timeout=0) == 0


@pytest.mark.parametrize("value", [None, [], {"a": [1, None]}, "x", 1.5])
def test_whatever_value_it_begins_again_with(work: Clockwork, value: Any) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        if x == "first":
            ctx.continue_as_new(value)
        return x

    work.play((scripted, code))
    run = scripted.enqueue("first")
    work.run()
    assert run.result(timeout=0) == value


def test_a_value_of_another_type_is_an_error_in_the_workflow(work: Clockwork) -> None:
    async def code(left: int, ctx: Any) -> int:
        ctx.continue_as_new("many")
        return 0

    work.play((rounds, code))
    run = rounds.enqueue(1)
    work.run()
    with pytest.raises(RunFailed, match="integer"):
        run.result(timeout=0)
    assert rounds.Input.objects.get().value == 1


def test_swallowing_the_new_beginning_is_an_error_that_says_so(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            ctx.continue_as_new(1)
        except BaseException:
            return "swallowed"

    work.play((scripted, code))
    run = scripted.enqueue(0)
    work.run()
    with pytest.raises(RunFailed, match="let `except BaseException` raise it"):
        run.result(timeout=0)


def test_begun_again_a_run_has_a_time_of_its_own(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        if x < 2:
            await ctx.sleep(600)
            ctx.continue_as_new(x + 1)
        return ctx.now().isoformat()

    work.play((scripted, code))
    scripted.enqueue(0)
    work.run()
    first = entry().started_at
    work.later(minutes=11)
    assert (entry().branch, entry().started_at > first) == (1, True)


# Chance


async def dice(x: Any, ctx: Any) -> Any:
    """Chance, before and after a wait."""
    before = [ctx.random.random(), str(ctx.uuid())]
    await ctx.call(approve, "go on?", key=ctx.key)
    return [*before, ctx.random.random(), str(ctx.uuid())]


def test_chance_is_the_same_in_a_replay_and_another_in_another_run(work: Clockwork) -> None:
    seen: list[list[Any]] = []

    async def code(x: Any, ctx: Any) -> Any:
        seen.append([ctx.random.random(), str(ctx.uuid())])
        await ctx.call(approve, "go on?", key=ctx.key)
        return [*seen[-1], ctx.random.random()]

    work.play((scripted, code))
    runs = [scripted.enqueue(1, key=key) for key in "ab"]
    work.run()
    work.forget()
    for key in "ab":
        approve.push(key, True)
    work.run()
    results = [run.result(timeout=0) for run in runs]
    assert [result[:2] for result in results] == seen[:2] == seen[2:]
    assert results[0] != results[1]


def test_restarted_a_run_has_other_luck(work: Clockwork) -> None:
    work.play((scripted, dice))
    scripted.enqueue(1, key="task")
    work.run()
    scripted.restart("task")
    work.run()
    seeds = scripted.Step.objects.filter(pipeline=":random").values_list("result", flat=True)
    assert len(set(seeds)) == 2


# Patches


def test_a_run_from_before_a_change_goes_its_old_way_and_a_new_one_the_new(work: Clockwork) -> None:
    async def old(x: Any, ctx: Any) -> Any:
        await ctx.call(approve, "first", key=f"{ctx.key} 1")
        await ctx.call(approve, "second", key=f"{ctx.key} 2")
        return "old"

    async def new(x: Any, ctx: Any) -> Any:
        await ctx.call(approve, "first", key=f"{ctx.key} 1")
        if ctx.patched("no second"):
            return await ctx.call(approve, "other", key=f"{ctx.key} 3") and "new"
        await ctx.call(approve, "second", key=f"{ctx.key} 2")
        return "old"

    work.play((scripted, old))
    runs = {key: scripted.enqueue(1, key=key) for key in ("past it", "before it")}
    work.run()
    approve.push("past it 1", True)
    work.run()
    work.play((scripted, new))
    runs["born later"] = scripted.enqueue(1, key="born later")
    work.run()
    for key in runs:
        approve.push(f"{key} 1", True)
        work.run()
        work.forget()
        for number in (2, 3):
            approve.push(f"{key} {number}", True)
        work.run()
    results = {key: run.result(timeout=0) for key, run in runs.items()}
    assert results == {"past it": "old", "before it": "new", "born later": "new"}
    assert not scripted.Input.objects.failed().exists()


# Progress and log


def test_progress_is_written_when_the_run_waits(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        ctx.progress(0.25, "asking")
        await ctx.call(approve, "1", key="1")
        ctx.progress(None, "unknown " * 100)
        await ctx.call(approve, "2", key="2")
        await ctx.call(approve, "3", key="3")

    work.play((scripted, code))
    scripted.enqueue(1, key="task")
    work.run()
    assert (entry().progress, entry().progress_text) == (0.25, "asking")
    approve.push("1", True)
    work.run()
    assert (entry().progress, len(entry().progress_text)) == (None, 200)
    work.forget()
    approve.push("2", True)
    work.run()
    assert (entry().progress, len(entry().progress_text)) == (None, 200)
    scripted.restart("task")
    assert (entry().progress, entry().progress_text) == (None, "")


@pytest.mark.parametrize("waits_for", ["call", "message", "timer"])
def test_every_line_is_logged_once(work: Clockwork, waits_for: str, caplog: pytest.LogCaptureFixture) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        for number in range(3):
            ctx.log.info("line %d", number)
            if waits_for == "call":
                await ctx.call(approve, "go on?", key="go")
            elif waits_for == "message":
                await ctx.receive("go")
            else:
                await ctx.sleep(60)
        ctx.log.info("line 3")

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    with caplog.at_level(logging.INFO):
        work.run()
        for _ in range(3):
            if waits_for == "call":
                approve.push("go", True)
            elif waits_for == "message":
                scripted.send("task", "go")
            work.later(seconds=61)
    assert run.result(timeout=0) is None
    lines = [message for message in caplog.messages if "line" in message]
    assert [line[-6:] for line in lines] == ["line 0", "line 1", "line 2", "line 3"]


def test_an_attempt_that_was_lost_says_its_lines_again_but_does_nothing_twice(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(trace, "once"), str(ctx.uuid())

    work.play((scripted, code))
    run = scripted.enqueue(1)
    (zombie,) = by_hand.claim_all(scripted)
    lost = work.outcome(zombie)
    by_hand.overdue(scripted)
    work.forget()
    work.run()
    assert len(by_hand.settle(zombie, lost).lost) == 1
    assert run.result(timeout=0)[0] == "once"
    assert (Ledger.objects.count(), scripted.Step.objects.count()) == (1, 1)
