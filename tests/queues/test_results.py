"""Waiting for results, and taking them: run.result, pipeline.result, consume, notify, wait, and pipeteer's verbs."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import IntegrityError, connection, transaction

import pipeteer_django as pipeteer
from pipeteer_django.exceptions import EntryChanged, NotInTransaction, RunFailed, RunGone
from pipeteer_django.testing import drain
from tests.queues import by_hand
from tests.testapp.models import Item
from tests.testapp.pipelines import boom, double, echo_optional, nothing, quad
from tests.trouble.pipelines import ask, waits

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)
needs_skip_locked = pytest.mark.skipif("sqlite" in str(connection.vendor), reason="SQLite has one writer at a time")


# result


def test_result() -> None:
    run = double.enqueue(2, key="task")
    drain(double)
    assert (run.result(timeout=0), double.result("task", timeout=0)) == (4, 4)


def test_aresult() -> None:
    run = double.enqueue(2, key="task")
    drain(double)
    assert async_to_sync(run.aresult)(timeout=0) == 4
    assert async_to_sync(double.aresult)("task", timeout=0) == 4


def test_none_is_a_value() -> None:
    runs = [nothing.enqueue(1), echo_optional.enqueue(None)]
    drain(nothing, echo_optional)
    assert [run.result(timeout=0) for run in runs] == [None, None]


def test_no_result_in_time() -> None:
    run = double.enqueue(2, key="task")
    with pytest.raises(TimeoutError, match="double 'task' has no result after 0 seconds"):
        run.result(timeout=0)
    with pytest.raises(TimeoutError):
        async_to_sync(run.aresult)(timeout=0.01)


def test_the_newest_run_of_a_key() -> None:
    first = double.enqueue(1, key="task")
    drain(double)
    second = double.enqueue(5, key="task")
    with pytest.raises(TimeoutError):
        double.result("task", timeout=0)
    drain(double)
    assert (first.result(timeout=0), second.result(timeout=0), double.result("task", timeout=0)) == (2, 10, 10)


def test_the_newest_run_of_a_key_with_that_output() -> None:
    double.enqueue(1, key="task", output="first")
    drain(double)
    double.enqueue(5, key="task", output="second")
    assert double.result("task", output="first", timeout=0) == 2


def test_a_consumed_result_is_still_a_result() -> None:
    run = double.enqueue(2)
    drain(double)
    with double.consume():
        pass
    assert run.result(timeout=0) == 4


def test_a_run_that_was_given_up() -> None:
    run = boom.enqueue("no way", key="task")
    drain(boom, raise_failures=False)
    with pytest.raises(RunFailed, match=r"boom 'task' was given up: .*Boom: no way") as raised:
        run.result(timeout=0)
    assert "Traceback" in raised.value.error
    with pytest.raises(RunFailed):
        async_to_sync(boom.aresult)("task", timeout=0)


def test_a_failed_run_that_is_retried_is_waited_for() -> None:
    run = boom.enqueue("no way")
    drain(boom, raise_failures=False)
    boom.Input.objects.all().retry()
    with pytest.raises(TimeoutError):
        run.result(timeout=0)


def test_a_run_that_was_deleted() -> None:
    run = double.enqueue(1, key="task")
    double.delete("task")
    with pytest.raises(RunGone, match=r"double 'task': run \d+ left its queue"):
        run.result(timeout=0)


def test_a_key_that_never_was() -> None:
    with pytest.raises(RunGone, match="double has no run under the key 'task'"):
        double.result("task", timeout=0)


@committed
def test_waiting_inside_a_transaction_could_never_end() -> None:
    with transaction.atomic():
        run = double.enqueue(1, key="task")
        with pytest.raises(NotInTransaction, match="after the block"):
            run.result(timeout=1)
        with pytest.raises(NotInTransaction):
            async_to_sync(run.aresult)(timeout=1)
        with pytest.raises(NotInTransaction):
            double.result("task", timeout=1)


def test_a_testcases_own_transaction_does_not_count() -> None:
    run = double.enqueue(1)
    drain(double)
    assert run.result(timeout=0) == 2
    with transaction.atomic(), pytest.raises(NotInTransaction):
        run.result(timeout=0)


@committed
def test_a_result_that_arrives_while_somebody_waits() -> None:
    run = quad.enqueue(3)
    results = by_hand.in_threads(lambda: run.result(timeout=20), lambda: drain(quad, double))
    assert results == [12, 5]


# consume


def test_consume() -> None:
    double.enqueue(2, key="task", output="mine")
    drain(double)
    with double.consume("mine") as entry:
        assert (entry.key, entry.value) == ("task", 4)
    assert not double.Output.objects.exists()
    assert double.Output.everything.get().consumed_at is not None


def test_consume_takes_the_oldest_of_that_name() -> None:
    for number, output in enumerate(["other", "mine", "mine"]):
        double.enqueue(number, output=output)
    drain(double)
    taken = []
    for _ in range(3):
        with double.consume("mine") as entry:
            taken.append(entry and entry.value)
    assert taken == [2, 4, None]
    assert double.Output.objects.get().output == "other"


def test_consume_takes_only_what_its_queryset_holds() -> None:
    for number in range(3):
        double.enqueue(number)
    drain(double)
    with double.Output.objects.filter(value__gt=2).consume() as entry:
        assert entry.value == 4
    with double.Output.everything.filter(value__gt=2).consume() as entry:
        assert entry is None
    assert double.Output.objects.count() == 2


def test_consume_takes_none_as_a_value() -> None:
    nothing.enqueue(1)
    drain(nothing)
    with nothing.consume() as entry:
        assert entry is not None
        assert entry.value is None


def test_an_exception_leaves_the_entry_and_none_of_the_blocks_writes() -> None:
    double.enqueue(1)
    drain(double)
    with pytest.raises(ZeroDivisionError), double.consume() as entry:
        Item.objects.create(name="half done")
        _ = 1 / 0
    assert (double.Output.objects.get(), Item.objects.count()) == (entry, 0)


def test_a_swallowed_database_error_leaves_the_entry() -> None:
    double.enqueue(1)
    drain(double)
    with pytest.raises(Exception, match="transaction"), double.consume() as entry:
        try:
            Item(pk=entry.pk, name="a").save(force_insert=True)
            Item(pk=entry.pk, name="b").save(force_insert=True)
        except IntegrityError:
            pass
    assert (double.Output.objects.count(), Item.objects.count()) == (1, 0)


def test_the_entry_may_be_deleted_by_hand() -> None:
    double.enqueue(1)
    drain(double)
    with pytest.raises(EntryChanged), double.consume() as entry:
        double.Output.everything.filter(pk=entry.pk).delete()


@needs_skip_locked
@committed
def test_two_consumers_get_different_entries() -> None:
    double.enqueue_many(range(2))
    drain(double)
    both_have_one = threading.Barrier(2, timeout=10)

    def take() -> Any:
        with double.consume() as entry:
            both_have_one.wait()
            return entry.value

    assert sorted(by_hand.in_threads(take, take)) == [0, 2]
    assert not double.Output.objects.exists()


@committed
def test_many_consumers_take_everything_once() -> None:
    double.enqueue_many(range(12))
    drain(double)

    def take_all() -> list[int]:
        taken: list[int] = []
        while True:
            with double.consume() as entry:
                if entry is None:
                    return taken
                taken.append(entry.value)

    taken = by_hand.in_threads(take_all, take_all, take_all)
    assert sorted(value for values in taken for value in values) == [2 * n for n in range(12)]


# wait and notify


def test_notify_publishes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[str] = []
    monkeypatch.setattr("pipeteer_django.hearing.publish", published.append)
    pipeteer.notify("mine")
    assert published == ["mine"]


def test_wait_returns_at_its_timeout() -> None:
    started = time.monotonic()
    assert async_to_sync(pipeteer.wait)("nobody speaks of this", 0.01) is False
    assert time.monotonic() - started < 5


def test_notify_waits_for_the_commit(wakeups: list[str], django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        double.notify()
        assert wakeups == []
    assert wakeups == ["double"]


# pipeteer's verbs


def test_items() -> None:
    for number, key in enumerate("cab"):
        double.enqueue(number, key=key, priority=number)
    assert list(double.items()) == [("c", 0), ("a", 1), ("b", 2)]


def test_delete() -> None:
    double.enqueue(1, key="task")
    assert (double.delete("task"), double.delete("task")) == (True, False)
    assert not double.Input.objects.exists()


def test_step() -> None:
    quad.enqueue(1, key="task")
    assert quad.step("task") is None
    drain(quad)
    assert quad.step("task") == 0
    drain(double)
    drain(quad)
    assert (quad.step("task"), quad.step("no such key")) == (1, None)
    assert double.Input.objects.step("quad:1:0:0") is None


def test_restart() -> None:
    quad.enqueue(1, key="task")
    drain(quad)
    assert (quad.restart("task"), quad.restart("no such key")) == (True, False)
    drain()
    assert (quad.Output.objects.get().value, double.Input.objects.count()) == (4, 0)


def test_restart_of_an_activity_is_a_fresh_start() -> None:
    boom.enqueue("no", key="task")
    drain(boom, raise_failures=False)
    assert boom.Input.objects.restart() == 1
    assert boom.Input.objects.values_list("attempt", "failed_at", "error", "branch").get() == (0, None, "", 1)


def test_restart_takes_the_children_along() -> None:
    waits.enqueue("ready?", key="task")
    drain(waits)
    old = set(ask.Input.objects.values_list("key", flat=True))
    waits.restart("task")
    assert not ask.Input.objects.exists()
    drain(waits)
    new = set(ask.Input.objects.values_list("key", flat=True))
    assert (len(old), len(new), old & new) == (2, 2, set())


def test_a_late_answer_to_the_old_branch_goes_nowhere() -> None:
    waits.enqueue("ready?", key="task")
    drain(waits)
    old = [entry.key for entry in ask.Input.objects.all()]
    waits.restart("task")
    drain(waits)
    assert [ask.push(key, "stale") for key in old] == [False, False]
    for entry in ask.Input.objects.order_by("id"):
        ask.push(entry.key, "fresh")
    drain(waits)
    assert waits.result("task", timeout=0) == "fresh fresh"
