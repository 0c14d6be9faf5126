"""Messages to running workflows: kept until received, in order, each once, whoever sends them and whenever."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from django.db import connection, transaction

from pipeteer_django.exceptions import InvalidValue, RunFailed, RunGone, StepFailed
from pipeteer_django.pipelines.outcome import Released
from pipeteer_django.queues import statements
from tests.queues import by_hand
from tests.queues.clockwork import Clockwork
from tests.testapp.pipelines import approve, double, mailbox, quad, scripted, scripted_child

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)
needs_row_locks = pytest.mark.skipif("sqlite" in str(connection.vendor), reason="SQLite locks no rows")


async def three(x: Any, ctx: Any) -> Any:
    """Three messages in the order in which they come."""
    return [await ctx.receive("word") for _ in range(3)]


def unread() -> int:
    return scripted.Message.objects.filter(order=None).count()


# When


def test_a_message_sent_before_the_run_begins(work: Clockwork) -> None:
    run = mailbox.enqueue(1, key="task")
    mailbox.send("task", "note", "early")
    mailbox.send("task", "approved", True)
    work.run()
    assert run.result(timeout=0) == ["early", True]


def test_a_message_sent_while_the_run_runs(work: Clockwork) -> None:
    run = mailbox.enqueue(0, key="task")
    claim = by_hand.claim_one(mailbox)
    mailbox.send("task", "approved", True)
    work.hold(claim, work.outcome(claim))
    work.run()
    assert run.result(timeout=0) == [True]


@pytest.mark.parametrize("timeout", [None, 60], ids=["", "with a timer"])
def test_a_message_sent_while_the_run_sleeps(work: Clockwork, timeout: Any) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.receive("word", timeout=timeout)

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    assert scripted.Input.objects.waiting().count() == 1
    scripted.send("task", "word", "hello")
    assert scripted.Input.objects.ready().count() == 1
    work.run()
    assert run.result(timeout=0) == "hello"


def test_messages_keep_their_order_and_each_is_received_once(work: Clockwork) -> None:
    work.play((scripted, three))
    run = scripted.enqueue(1, key="task")
    for word in "abcd":
        scripted.send("task", "word", word)
        work.run()
        work.forget()
        if word == "c":
            assert run.result(timeout=0) == ["a", "b", "c"]
            break


def test_messages_sent_in_one_transaction_keep_their_order(work: Clockwork) -> None:
    work.play((scripted, three))
    run = scripted.enqueue(1, key="task")
    with transaction.atomic():
        for word in "abc":
            scripted.send("task", "word", word)
    work.run()
    assert run.result(timeout=0) == ["a", "b", "c"]


def test_what_is_not_received_waits_and_bothers_nobody(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        second = await ctx.receive("second")
        return second, await ctx.receive("first")

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    scripted.send("task", "first", 1)
    work.run()
    work.forget()
    assert scripted.Input.objects.waiting().count() == 1
    scripted.send("task", "second", 2)
    work.run()
    assert run.result(timeout=0) == [2, 1]


def test_no_message_in_time(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.receive("word", timeout=60)
        except TimeoutError:
            return await ctx.receive("word")

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    work.later(seconds=61)
    scripted.send("task", "word", "late")
    work.run()
    assert run.result(timeout=0) == "late"


def test_a_receive_that_was_given_up_takes_no_message_along(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        await ctx.any(ctx.receive("word"), ctx.call(double, 1))
        return await ctx.receive("word")

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    work.run()
    scripted.send("task", "word", "only one")
    work.run()
    assert run.result(timeout=0) == "only one"


# What


def test_a_declared_message_is_checked_where_it_is_sent(work: Clockwork) -> None:
    mailbox.enqueue(0, key="task")
    with pytest.raises(InvalidValue, match="receives no message 'rejected', but approved, note"):
        mailbox.send("task", "rejected", True)
    with pytest.raises(InvalidValue, match="boolean"):
        mailbox.send("task", "approved", "perhaps")
    with pytest.raises(InvalidValue, match="cannot be the name"):
        mailbox.send("task", ":cancel")
    assert mailbox.Message.objects.count() == 0
    assert mailbox.Input.objects.get().deliveries == 0


def test_a_message_of_another_type_is_an_error_that_a_workflow_may_catch(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.receive("count", int)
        except InvalidValue:
            return await ctx.receive("count", int)

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    scripted.send("task", "count", "many")
    scripted.send("task", "count", 3)
    work.run()
    assert run.result(timeout=0) == 3


def test_a_message_of_another_type_that_is_not_caught_fails_the_run(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.receive("count", int)

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    scripted.send("task", "count", "many")
    work.run()
    with pytest.raises(RunFailed, match="integer"):
        run.result(timeout=0)


def test_only_workflows_receive_messages() -> None:
    double.enqueue(1, key="task")
    with pytest.raises(TypeError, match="double is no workflow"):
        double.Input.objects.send("task", "word")


# To whom


def test_a_message_to_nobody() -> None:
    with pytest.raises(RunGone, match="no run in its queue under the key 'nobody'"):
        mailbox.send("nobody", "approved", True)
    assert mailbox.Message.objects.count() == 0


def test_a_message_in_a_transaction_that_rolls_back(work: Clockwork) -> None:
    run = mailbox.enqueue(0, key="task")
    work.run()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        mailbox.send("task", "approved", False)
        raise ZeroDivisionError
    assert work.run() == 0
    assert (mailbox.Message.objects.count(), mailbox.Input.objects.get().deliveries) == (0, 0)
    mailbox.send("task", "approved", True)
    work.run()
    assert run.result(timeout=0) == [True]


def test_a_message_wakes_the_workers_once_it_is_committed(
    wakeups: list[str], django_capture_on_commit_callbacks: Any
) -> None:
    mailbox.enqueue(0, key="task")
    with django_capture_on_commit_callbacks(execute=True):
        mailbox.send("task", "approved", True)
        assert wakeups == []
    assert wakeups == ["mailbox"]


def test_a_message_to_a_failed_run_is_kept_until_it_is_retried(work: Clockwork) -> None:
    async def broken(x: Any, ctx: Any) -> Any:
        raise ZeroDivisionError

    work.play((scripted, broken))
    run = scripted.enqueue(1, key="task")
    work.run()
    for word in "abc":
        scripted.send("task", "word", word)
    assert work.run() == 0
    assert scripted.Input.objects.failed().count() == 1
    work.play((scripted, three))
    scripted.Input.objects.failed().retry()
    work.run()
    assert run.result(timeout=0) == ["a", "b", "c"]


@committed
def test_messages_from_many_threads_at_once(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return sorted([await ctx.receive("word") for _ in range(x)])

    work.play((scripted, code))
    run = scripted.enqueue(12, key="task")
    work.run()
    errors = by_hand.in_threads(*(lambda n=n: scripted.send("task", "word", n) for n in range(12)))
    assert errors == [None] * 12
    assert scripted.Input.objects.get().deliveries == 12
    work.run()
    assert run.result(timeout=0) == list(range(12))


@committed
@needs_row_locks
@pytest.mark.parametrize("guarded", [True, False], ids=["", "mutant"])
def test_of_two_messages_at_once_none_is_missed(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """The row's lock counts them: without it both would write the same number, and a run could sleep over one."""
    scripted.enqueue(1, key="task")
    if not guarded:
        both, real = threading.Barrier(2, timeout=10), statements.select_rows

        def select_rows(*arguments: Any, **options: Any) -> Any:
            found = real(*arguments, **options | {"lock": False})
            both.wait()
            return found

        monkeypatch.setattr(statements, "select_rows", select_rows)
    by_hand.in_threads(*(lambda n=n: scripted.send("task", "word", n) for n in range(2)))
    assert scripted.Message.objects.count() == 2
    assert scripted.Input.objects.get().deliveries == (2 if guarded else 1)


# From another workflow


async def sender(x: Any, ctx: Any) -> Any:
    """Sends three words."""
    for word in "abc":
        await ctx.send(scripted_child, "receiver", "word", word)
    return "sent"


def test_a_workflow_sends_to_another(work: Clockwork) -> None:
    work.play((scripted, sender), (scripted_child, three))
    receiver = scripted_child.enqueue(1, key="receiver")
    run = scripted.enqueue(1)
    work.run()
    assert (run.result(timeout=0), receiver.result(timeout=0)) == ("sent", ["a", "b", "c"])
    assert scripted_child.Message.objects.count() == 3


def test_a_message_is_sent_once_however_often_its_sender_is_replayed(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        await sender(x, ctx)
        return await ctx.call(approve, "go on?", key="go")

    work.play((scripted, code), (scripted_child, three))
    receiver = scripted_child.enqueue(1, key="receiver")
    run = scripted.enqueue(1)
    work.run()
    work.forget()
    approve.push("go", True)
    work.run()
    assert (run.result(timeout=0), receiver.result(timeout=0)) == (True, ["a", "b", "c"])
    assert scripted_child.Message.objects.count() == 3


def test_a_message_of_an_outcome_that_was_not_settled_is_not_sent(work: Clockwork) -> None:
    work.play((scripted, sender), (scripted_child, three))
    scripted_child.enqueue(1, key="receiver")
    run = scripted.enqueue(1)
    work.run(scripted_child)
    (zombie,) = by_hand.claim_all(scripted)
    outcome = work.outcome(zombie)
    by_hand.overdue(scripted)
    (claim,) = by_hand.claim_all(scripted)
    assert len(by_hand.settle(zombie, outcome).lost) == 1
    assert scripted_child.Message.objects.count() == 0
    by_hand.settle(claim, Released())
    work.forget()
    work.run()
    assert run.result(timeout=0) == "sent"
    assert list(scripted_child.Message.objects.order_by("id").values_list("value", flat=True)) == ["a", "b", "c"]


def test_a_settle_that_rolls_back_sends_nothing(work: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    work.play((scripted, sender), (scripted_child, three))
    receiver = scripted_child.enqueue(1, key="receiver")
    run = scripted.enqueue(1)
    work.run(scripted_child)
    (claim,) = by_hand.claim_all(scripted)
    work.hold(claim, work.outcome(claim))
    with monkeypatch.context() as patch:
        patch.setattr("pipeteer_django.queues.settle._note_awake", lambda *arguments: 1 / 0)
        tickets = list(work._tickets)
        with pytest.raises(ZeroDivisionError):
            work.turn()
    assert scripted_child.Message.objects.count() == scripted.Step.objects.count() == 0
    work._tickets = tickets
    work.run()
    assert (run.result(timeout=0), receiver.result(timeout=0)) == ("sent", ["a", "b", "c"])


def test_a_workflow_sends_to_itself(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        await ctx.send(scripted, ctx.key, "word", 1)
        await ctx.send(scripted, ctx.key, "word", 2)
        return [await ctx.receive("word"), await ctx.receive("word")]

    work.play((scripted, code))
    run = scripted.enqueue(1, key="me")
    work.run()
    assert run.result(timeout=0) == [1, 2]


def test_a_workflow_sends_to_nobody(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.send(scripted_child, "nobody", "word", 1)
        except StepFailed as failure:
            return failure.type_name

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert run.result(timeout=0) == "RunGone"
    assert scripted_child.Message.objects.count() == 0


def test_a_workflow_sends_to_a_run_that_ends_in_the_same_turn(work: Clockwork) -> None:
    async def ends(x: Any, ctx: Any) -> Any:
        return "over"

    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.send(scripted_child, "receiver", "word", 1)
        except StepFailed as failure:
            return failure.type_name

    work.play((scripted, code), (scripted_child, ends))
    receiver = scripted_child.enqueue(1, key="receiver")
    run = scripted.enqueue(1)
    for claim in [*by_hand.claim_all(scripted), *by_hand.claim_all(scripted_child)]:
        work.hold(claim, work.outcome(claim))
    work.run()
    assert (run.result(timeout=0), receiver.result(timeout=0)) == ("RunGone", "over")
    assert scripted_child.Message.objects.count() == 0


def test_a_workflow_sends_to_one_that_suspends_in_the_same_turn(work: Clockwork) -> None:
    async def one(x: Any, ctx: Any) -> Any:
        return await ctx.receive("word")

    async def code(x: Any, ctx: Any) -> Any:
        await ctx.send(scripted_child, "receiver", "word", 1)

    work.play((scripted, code), (scripted_child, one))
    receiver = scripted_child.enqueue(1, key="receiver")
    scripted.enqueue(1)
    for claim in [*by_hand.claim_all(scripted), *by_hand.claim_all(scripted_child)]:
        work.hold(claim, work.outcome(claim))
    work.run()
    assert receiver.result(timeout=0) == 1


def test_a_wrong_message_is_an_error_where_it_is_sent(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        errors = []
        for name, value in [("rejected", True), ("approved", "perhaps")]:
            try:
                await ctx.send(mailbox, "task", name, value)
            except InvalidValue as error:
                errors.append(str(error)[:30])
        return len(errors)

    work.play((scripted, code))
    mailbox.enqueue(0, key="task")
    run = scripted.enqueue(1)
    work.run()
    assert run.result(timeout=0) == 2
    assert mailbox.Message.objects.count() == 0


@pytest.mark.parametrize("key", ["a\0", "\ud800", "", "a" * 201, 7], ids=ascii)
def test_a_key_that_no_run_can_have(work: Clockwork, key: Any) -> None:
    """As a part of the step it would be refused by the database, and the run parked."""

    async def code(x: Any, ctx: Any) -> Any:
        try:
            await ctx.send(scripted_child, key, "word")
        except InvalidValue as error:
            return str(error)

    work.play((scripted, code))
    run = scripted.enqueue(1)
    work.run()
    assert "key" in run.result(timeout=0)


def test_many_to_one_and_one_to_many(work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        await asyncio.gather(*(ctx.send(scripted_child, f"r{n}", "word", x) for n in range(3)))

    work.play((scripted, code), (scripted_child, three))
    receivers = [scripted_child.enqueue(1, key=f"r{n}") for n in range(3)]
    for number in range(3):
        scripted.enqueue(number)
    work.run()
    assert [sorted(receiver.result(timeout=0)) for receiver in receivers] == [[0, 1, 2]] * 3


@committed
@needs_row_locks
def test_a_receiver_that_somebody_holds_makes_only_its_sender_wait(work: Clockwork) -> None:
    work.play((scripted, sender), (scripted_child, three))
    receiver = scripted_child.enqueue(1, key="receiver")
    run, neighbour = scripted.enqueue(1), quad.enqueue(1)
    work.run(scripted_child)

    def meanwhile() -> None:
        for _ in range(10):
            work.step(scripted, quad, double)

    with transaction.atomic():
        list(scripted_child.Input.objects.select_for_update())
        by_hand.in_threads(meanwhile)
        assert scripted_child.Message.objects.count() == 0
    assert neighbour.result(timeout=0) == 4
    work.run()
    assert (run.result(timeout=0), receiver.result(timeout=0)) == ("sent", ["a", "b", "c"])
