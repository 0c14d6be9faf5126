"""What each safeguard of a turn is for, one test for each: `tests/prove/mutants_table.py` takes them out."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection, connections, transaction
from django.utils import timezone

from pipeteer_django.conf import settings
from pipeteer_django.exceptions import LeaseLost
from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.queues import births, claim, settle
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import durable
from pipeteer_django.queues.renew import renew
from pipeteer_django.queues.turn import Appetite, Turn, take_turn, ticket_of
from tests.queues import by_hand
from tests.queues.by_hand import drain_anyway
from tests.queues.clockwork import Clockwork
from tests.testapp.pipelines import double, quad, record

pytestmark = pytest.mark.django_db(transaction=True)

ROW_LOCKS = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time, no row locks")


# Claims


@ROW_LOCKS
def test_two_turns_at_once_claim_different_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has chosen its entry before either of them has written."""
    record.enqueue_many(["a", "b"])
    both_chose = threading.Barrier(2, timeout=3)
    reserve = claim._reserve

    def reserve_together(*arguments: Any) -> None:
        both_chose.wait()
        reserve(*arguments)

    monkeypatch.setattr(claim, "_reserve", reserve_together)
    one, other = by_hand.in_threads(lambda: by_hand.claim_one(record), lambda: by_hand.claim_one(record))
    assert not both_chose.broken, "one turn waited for the other"
    assert {one.value, other.value} == {"a", "b"}


def test_an_attempt_that_never_ends_has_counted() -> None:
    record.enqueue("x")
    assert by_hand.claim_one(record).attempt == 1
    assert record.Input.objects.get().attempt == 1
    by_hand.overdue(record)  # its worker died
    assert by_hand.claim_one(record).attempt == 2


def test_an_entry_that_kills_its_worker_is_parked() -> None:
    record.enqueue("poison")
    for crashes in range(settings().MAX_CRASHES):
        assert by_hand.claim_one(record).crashes == crashes
        by_hand.overdue(record)
    drain_anyway(record)
    entry = record.Input.objects.get()
    assert entry.failed_at
    assert f"{settings().MAX_CRASHES} times while it ran this entry" in entry.error


def test_a_suspect_runs_alone() -> None:
    record.enqueue_many(["suspect", "a", "b"])
    by_hand.claim_one(record)
    by_hand.overdue(record)
    busy = take_turn([], Appetite("busy", 10, 10, False, [(record, 0)]), using="default")
    assert (busy.claims, busy.suspect_waits) == ([], True)
    assert [entry.value for entry in by_hand.claim_all(record)] == ["suspect"]
    assert [entry.value for entry in by_hand.claim_all(record)] == ["a", "b"]


def test_a_lease_that_is_somebody_elses_now_is_not_renewed() -> None:
    record.enqueue("x")
    mine = by_hand.claim_one(record)
    by_hand.overdue(record)
    (theirs,) = take_turn([], Appetite("other", 1, 1, True, [(record, 0)]), using="default").claims
    until = record.Input.objects.get().available_at
    assert renew(record, "default", {mine.id: mine.epoch}, "by hand") == {mine.id}
    assert record.Input.objects.get().available_at == until
    assert renew(record, "default", {theirs.id: theirs.epoch}, "other") == set()
    assert record.Input.objects.get().available_at > until


# Settling


def test_a_turn_that_missed_a_row_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    double.enqueue(1)
    ticket = ticket_of(by_hand.claim_one(double), Done(2))
    lock = settle.lock

    def lock_in_vain(*arguments: Any, **options: Any) -> Any:
        locked = lock(*arguments, **options)
        plain(double.Input, "default").all()._raw_delete("default")
        return locked

    monkeypatch.setattr(settle, "lock", lock_in_vain)
    with pytest.raises(LeaseLost), transaction.atomic():
        settle.settle([ticket], using="default", now=timezone.now())
    assert (double.Input.objects.count(), double.Output.objects.count()) == (1, 0)


def test_a_step_is_never_there_without_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker dies in between, or its connection does."""
    quad.enqueue(1)
    work = Clockwork(0, monkeypatch)
    work.step(quad)  # what it came to, a call, waits for the next turn

    def die(*arguments: Any) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch, pytest.raises(DatabaseError):
        patch.setattr(births, "_insert_children", die)
        work.step(quad)
    assert (quad.Step.objects.count(), double.Input.objects.count()) == (0, 0)


def test_a_result_for_a_cancelled_step_is_dropped() -> None:
    """Its row was locked when its step was cancelled, so that the entry is still there."""
    quad.enqueue(1)
    drain_anyway(quad)
    late = by_hand.claim_one(double)
    plain(quad.Step, "default").update(cancelled_at=timezone.now())
    assert by_hand.settle(late, Done(2)).dropped == 1
    step = quad.Step.objects.get()
    assert (step.done_at, step.result) == (None, None)


# A COMMIT whose reply is lost


def lose_the_reply(monkeypatch: pytest.MonkeyPatch, *, committed: bool) -> None:
    """The next COMMIT raises; whether it reaches the database is up to `committed`."""
    wrapper = type(connections["default"])
    commit = wrapper.commit

    def commit_in_doubt(self: Any) -> None:
        monkeypatch.setattr(wrapper, "commit", commit)
        if committed:
            commit(self)
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(wrapper, "commit", commit_in_doubt)


@pytest.mark.parametrize("committed", [True, False])
def test_a_turn_whose_commit_got_no_reply(monkeypatch: pytest.MonkeyPatch, committed: bool) -> None:
    """Whichever it was, the worker comes to know: each entry is settled once, and each claim is somebody's."""
    record.enqueue_many(["a", "b"])
    ticket = ticket_of(by_hand.claim_one(record), Done("a"))
    appetite = Appetite("by hand", 1, 1, True, [(record, 0)])
    lose_the_reply(monkeypatch, committed=committed)
    turn = as_a_worker_does(ticket, appetite)
    assert (turn.settled.done, turn.settled.lost) == ([ticket], [])
    (entry,) = turn.claims
    row = record.Input.objects.get()
    assert (entry.value, row.epoch, row.reserved_by) == ("b", entry.epoch, "by hand")
    assert record.Output.objects.get().value == "a"


def as_a_worker_does(ticket: Any, appetite: Appetite) -> Turn:
    """It keeps its tickets and comes again where a turn raised."""
    try:
        return take_turn([ticket], appetite, using="default", commit=durable)
    except OperationalError:
        connections["default"].close()
        return take_turn([ticket], appetite, using="default", commit=durable)


# A transaction that ends without an exception and without a commit


def test_a_turn_whose_transaction_vanished_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    double.enqueue(1)
    ticket = ticket_of(by_hand.claim_one(double), Done(2))
    real = settle._write

    def write_in_vain(*arguments: Any) -> None:
        real(*arguments)
        transaction.set_rollback(True)

    with monkeypatch.context() as patch, pytest.raises(OperationalError, match="without a commit"):
        patch.setattr(settle, "_write", write_in_vain)
        take_turn([ticket], Appetite(""), using="default")
    assert (double.Input.objects.count(), double.Output.objects.count()) == (1, 0)
    assert take_turn([ticket], Appetite(""), using="default").settled.done == [ticket]
