"""`atomic=True`: the body's writes are there if and only if its output is, and a lost transaction is named."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction

from pipeteer_django.exceptions import LeaseLost
from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.queues import atomic
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import durable, nested
from pipeteer_django.queues.sweep import Sweeper
from tests.queues import by_hand
from tests.queues.by_hand import drain_anyway
from tests.testapp.models import Ledger
from tests.testapp.pipelines import double, record, record_flaky, recording
from tests.trouble.models import Effect
from tests.trouble.pipelines import (
    borrows_from_channels,
    careful_write,
    enqueues,
    keeps,
    loses,
    makes_table,
    raises_after_write,
    swallows_raw_error,
    writes_in_thread,
)

committed = pytest.mark.django_db(transaction=True)
pytestmark = committed

VENDOR = str(connection.vendor)
ROLLED_BACK = "can only be rolled back, because the body called set_rollback"
CLOSED = "the database connection was closed inside the body"
ENDED = "the body ended the transaction itself"


def effects() -> list[str]:
    return sorted(Effect.objects.values_list("name", flat=True))


def attempt(pipeline: Any, value: Any) -> Any:
    """Run it once; the entry as it is then, or None if it is done."""
    pipeline.enqueue(value, key="task")
    drain_anyway(pipeline)
    assert not connection.in_atomic_block
    return pipeline.Input.objects.first()


def assert_lost(entry: Any, message: str) -> None:
    """No output, the attempt counted, the cause named; tried again later."""
    assert message in entry.error
    assert f"{entry.pipeline.id} 'task'" in entry.error
    assert (entry.attempt, entry.failed_at, entry.reserved_by) == (1, None, "")
    assert not entry.pipeline.Output.everything.exists()


# What it is for


def test_writes_and_output_together() -> None:
    handle = record.enqueue("once")
    drain_anyway(record)
    assert (handle.result(timeout=0), Ledger.objects.get().run_id) == ("once", handle.id)
    assert not record.Input.objects.exists()


def test_a_body_that_raises_leaves_nothing() -> None:
    entry = attempt(raises_after_write, 1)
    assert ("Trouble: after writing 1" in entry.error, effects()) == (True, [])


def test_only_the_last_attempt_writes() -> None:
    handle = record_flaky.enqueue(2)
    for _ in range(3):
        drain_anyway(record_flaky)
        by_hand.overdue(record_flaky)
    assert (handle.result(timeout=0), Ledger.objects.count()) == (3, 1)


def test_a_statement_may_fail_in_a_block_of_its_own() -> None:
    assert attempt(careful_write, 1) is None
    assert (effects(), careful_write.Output.objects.get().value) == (["kept"], 1)


def test_what_it_enqueues_is_there_only_if_it_is_done(wakeups: list[str]) -> None:
    assert attempt(enqueues, -1) is not None
    assert (keeps.Input.objects.count(), wakeups) == (0, ["enqueues"])
    by_hand.engine(enqueues, value=1)
    by_hand.overdue(enqueues)
    drain_anyway(enqueues)
    assert keeps.Input.objects.get().key == "from 1"
    assert wakeups == ["enqueues", "keeps"]


def test_a_child_delivers_and_wakes_its_parent() -> None:
    handle = recording.enqueue(3)
    drain_anyway()
    assert (handle.result(timeout=0), Ledger.objects.count()) == (3, 3)


@pytest.mark.django_db
def test_in_a_plain_testcase() -> None:
    handle = recording.enqueue(2)
    drain_anyway()
    assert (handle.result(timeout=0), Ledger.objects.count()) == (2, 2)


def test_a_value_that_does_not_fit_takes_the_writes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def misfit(name: str, ctx: Any) -> Any:
        Ledger.objects.create(name=name, run_id=ctx.run_id)
        return object()

    monkeypatch.setattr(record, "function", misfit)
    entry = attempt(record, "x")
    assert ("InvalidValue: value" in entry.error, Ledger.objects.count()) == (True, 0)


def test_an_entry_that_was_taken_over_is_not_run() -> None:
    record.enqueue("zombie")
    claim = by_hand.claim_one(record)
    record.Input.objects.all().release()
    ran: list[str] = []

    def body() -> str:
        ran.append("it may send a mail as well")
        Ledger.objects.create(name="z", run_id=0)
        return "z"

    with pytest.raises(LeaseLost):
        atomic.run_atomic(claim, "default", body, durable)
    assert (ran, Ledger.objects.count()) == ([], 0)


def test_deleted_in_its_own_body() -> None:
    record.enqueue("gone")
    claim = by_hand.claim_one(record)

    def body() -> str:
        Ledger.objects.create(name="gone", run_id=claim.id)
        plain(record.Input, "default").delete()
        return "gone"

    with pytest.raises(LeaseLost):
        atomic.run_atomic(claim, "default", body, durable)
    assert (Ledger.objects.count(), record.Input.objects.count(), record.Output.objects.count()) == (0, 1, 0)


def test_a_lost_claim_settles_nothing_afterwards() -> None:
    record.enqueue("twice")
    claim = by_hand.claim_one(record)
    atomic.run_atomic(claim, "default", lambda: "first", durable)
    assert len(by_hand.settle(claim, Done("second")).lost) == 1
    assert record.Output.objects.get().value == "first"


def test_the_second_half_of_a_childs_settle_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = recording.enqueue(1)
    drain_anyway(recording)
    monkeypatch.setattr(atomic, "_after", lambda claim, settled, *rest: settled)
    drain_anyway(record)
    assert (drain_anyway(recording), recording.Input.objects.waiting().count()) == (0, 1)
    assert Sweeper([recording], "default").sweep() == {"recording"}
    drain_anyway(recording)
    assert handle.result(timeout=0) == 1


# Silent losses (the B of the fault catalogue)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("set_rollback", ROLLED_BACK),
        ("close_connection", CLOSED),
        ("close_and_write_on", CLOSED),
        ("close_old", CLOSED),
        ("swallow_save", ROLLED_BACK),
        ("swallow_bulk_create", ROLLED_BACK),
        ("swallow_inner_block", ROLLED_BACK),
    ],
)
def test_a_lost_transaction_is_noticed(how: str, message: str) -> None:
    assert_lost(attempt(loses, how), message)
    assert effects() == []


@pytest.mark.parametrize("how", ["set_rollback", "close_connection", "swallow_save"])
def test_after_a_loss_the_next_entry_is_fine(how: str) -> None:
    loses.enqueue(how)
    record.enqueue("next")
    drain_anyway(loses, record)
    drain_anyway(loses, record)
    assert (record.Output.objects.count(), Ledger.objects.count(), effects()) == (1, 1, [])


def test_a_savepoint_of_its_own_may_lose_what_is_in_it() -> None:
    entry = attempt(loses, "swallow_in_savepoint")
    assert effects() == []
    if entry is not None:
        assert_lost(entry, ROLLED_BACK)


def test_a_swallowed_raw_error() -> None:
    entry = attempt(swallows_raw_error, 1)
    if VENDOR == "postgresql":
        assert_lost(entry, "aborted by a database error that the body swallowed")
        assert effects() == []
    else:  # these databases take only the failed statement back
        assert (entry, effects(), swallows_raw_error.Output.objects.count()) == (None, ["lost"], 1)


def test_channels_closes_the_connection() -> None:
    entry = attempt(borrows_from_channels, 1)
    outputs = borrows_from_channels.Output.objects.count()
    assert len(effects()) == 2 * outputs
    if entry is not None:
        assert "database_sync_to_async" in entry.error
        assert (entry.attempt, effects()) == (1, [])


@pytest.mark.parametrize("how", ["raw_commit", "raw_commit_and_begin", "raw_rollback"])
def test_a_body_that_ends_the_transaction_itself_is_never_retried(how: str) -> None:
    entry = attempt(loses, how)
    assert ENDED in entry.error
    assert "look at the data" in entry.error
    assert (entry.failed_at is None, entry.attempt, loses.Output.objects.count()) == (False, 1, 0)
    assert drain_anyway(loses) == 0


@pytest.mark.parametrize("how", ["raw_commit_and_raise", "raw_commit_and_swallow", "raw_commit_and_swallow_raw"])
def test_nor_one_that_fails_after_that(how: str) -> None:
    entry = attempt(loses, how)
    assert ENDED in entry.error
    assert (entry.failed_at is None, effects(), loses.Output.objects.count()) == (False, ["lost"], 0)


def test_an_error_of_the_database_itself_is_retried() -> None:
    entry = attempt(loses, "raise_deadlock")
    assert ("OperationalError" in entry.error, entry.failed_at, effects()) == (True, None, [])


@pytest.mark.django_db
def test_an_operational_error_in_a_plain_testcase() -> None:
    entry_before = Effect.objects.create(name="the test's own")
    loses.enqueue("raise_deadlock")
    drain_anyway(loses)
    assert "OperationalError" in loses.Input.objects.get().error
    assert Effect.objects.get() == entry_before


def test_ddl_commits_on_mariadb_only() -> None:
    try:
        entry = attempt(makes_table, 1)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS trouble_made")
    if VENDOR == "mysql":
        assert ENDED in entry.error
        assert (entry.failed_at is None, effects()) == (False, ["lost"])
    else:
        assert (entry, effects(), makes_table.Output.objects.count()) == (None, ["lost"], 1)


@pytest.mark.parametrize("where", ["to_thread", "thread_sensitive"])
def test_a_write_from_another_thread_is_refused(where: str) -> None:
    assert_lost(attempt(writes_in_thread, where), "wrote from another thread, outside its transaction")
    assert effects() == []


def test_the_right_thread_is_the_one_that_sync_to_async_uses() -> None:
    assert attempt(writes_in_thread, "here") is None
    assert (effects(), writes_in_thread.Output.objects.count()) == (["kept"], 1)


def test_other_threads_may_write_when_no_atomic_body_is_theirs() -> None:
    record.enqueue("x")
    claim = by_hand.claim_one(record)

    def body() -> str:
        # Started outside the body's context, as a web server's threads are.
        (created,) = (
            by_hand.in_threads(lambda: Effect.objects.create(name="elsewhere").name)
            if VENDOR != "sqlite"
            else ["elsewhere"]
        )
        return str(created)

    atomic.run_atomic(claim, "default", body, durable)
    assert record.Output.objects.get().value == "elsewhere"


def test_a_commit_whose_reply_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    record.enqueue("in doubt")
    claim = by_hand.claim_one(record)
    wrapper = type(connections["default"])
    commit = wrapper.commit

    def commit_and_lose_the_reply(self: Any) -> None:
        commit(self)
        monkeypatch.setattr(wrapper, "commit", commit)
        raise OperationalError("server closed the connection unexpectedly")

    def body() -> str:
        Ledger.objects.create(name="in doubt", run_id=claim.id)
        monkeypatch.setattr(wrapper, "commit", commit_and_lose_the_reply)
        return "in doubt"

    settled = atomic.run_atomic(claim, "default", body, durable)
    assert ([ticket.id for ticket in settled.done], Ledger.objects.count()) == ([claim.id], 1)
    assert record.Output.objects.count() == 1


def test_a_commit_that_never_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    record.enqueue("in doubt")
    claim = by_hand.claim_one(record)
    wrapper = type(connections["default"])
    commit = wrapper.commit

    def lose_the_commit(self: Any) -> None:
        monkeypatch.setattr(wrapper, "commit", commit)
        raise OperationalError("server closed the connection unexpectedly")

    def body() -> str:
        Ledger.objects.create(name="in doubt", run_id=claim.id)
        monkeypatch.setattr(wrapper, "commit", lose_the_commit)
        return "in doubt"

    with pytest.raises(OperationalError):
        atomic.run_atomic(claim, "default", body, durable)
    assert (Ledger.objects.count(), record.Output.objects.count(), record.Input.objects.count()) == (0, 0, 1)


def test_never_within_somebodys_transaction() -> None:
    record.enqueue("x")
    claim = by_hand.claim_one(record)
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        atomic.run_atomic(claim, "default", lambda: "x", durable)


@pytest.mark.django_db
def test_an_inner_block_of_a_testcase_that_is_lost() -> None:
    record.enqueue("x")
    claim = by_hand.claim_one(record)

    def body() -> str:
        Ledger.objects.create(name="x", run_id=claim.id)
        transaction.set_rollback(True)
        return "x"

    with pytest.raises(Exception, match="set_rollback"):
        atomic.run_atomic(claim, "default", body, nested)
    assert (Ledger.objects.count(), record.Output.objects.count(), double.Input.objects.count()) == (0, 0, 0)
