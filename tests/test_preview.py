"""preview(): what an atomic activity would do, and nothing of it done."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import TestCase

import pipeteer_django as pipeteer
from pipeteer_django.exceptions import BrokenAtomicity, EntryChanged, InvalidValue, LostTransaction
from pipeteer_django.testing import drain
from tests.queues import by_hand
from tests.testapp.models import Item, Ledger
from tests.testapp.pipelines import Flaky, double, process_item, quad, record, record_flaky, recording, trace
from tests.trouble.models import Effect
from tests.trouble.pipelines import (
    Trouble,
    appraise,
    careful_write,
    enqueues,
    keeps,
    loses,
    makes_table,
    raises_after_write,
    writes_in_thread,
)

pytestmark = pytest.mark.django_db(transaction=True)

VENDOR = str(connection.vendor)


@pytest.fixture
def wakeups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The topics published on commit."""
    published: list[str] = []
    monkeypatch.setattr("pipeteer_django.queues.hints.publish", published.append)
    return published


def entry_of(pipeline: Any, value: Any) -> Any:
    return pipeline.Input.objects.get(pk=pipeline.enqueue(value, key="task").id)


def assert_untouched(entry: Any, before: Any) -> None:
    assert by_hand.state(entry) == before
    assert (Ledger.objects.count(), Effect.objects.count()) == (0, 0)
    assert not entry.pipeline.Output.everything.exists()
    assert not connection.in_atomic_block
    assert connection.execute_wrappers.count(connection.execute_wrappers[0]) == len(connection.execute_wrappers)


# What it is for


def test_value_and_statements() -> None:
    entry = entry_of(record, "it's")
    before = by_hand.state(entry)
    preview = pipeteer.preview(entry)
    assert preview.value == "it's"
    (insert,) = preview.sql
    assert insert.startswith("INSERT INTO")
    assert "testapp_ledger" in insert
    assert "it's" in insert.replace("''", "'").replace("\\'", "'")
    assert str(entry.pk) in insert
    assert_untouched(entry, before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        preview.value = 1  # type: ignore[misc]


def test_the_entry_can_run_afterwards() -> None:
    entry = entry_of(record, "x")
    for _ in range(3):
        pipeteer.preview(entry)
    entry.priority = 3
    entry.save()  # the epoch is still the one that was loaded
    drain(record)
    assert (record.Output.objects.get().attempt, Ledger.objects.count()) == (1, 1)


def test_rows_in_and_out() -> None:
    item = Item.objects.create(name="pen")
    entry = entry_of(process_item, item)
    preview = pipeteer.preview(entry)
    assert (preview.value, preview.value.processed) == (item, True)
    assert [sql.split()[0] for sql in preview.sql] == ["UPDATE", "INSERT"]  # that the row was read is not the body's
    item.refresh_from_db()
    assert not item.processed
    assert Ledger.objects.count() == 0


def test_the_context_is_a_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def body(name: str, ctx: Any) -> str:
        seen.append(ctx)
        return name

    monkeypatch.setattr(record, "function", body)
    entry = entry_of(record, "x")
    assert pipeteer.preview(entry, app="app").sql == []
    drain(record)
    rehearsed, real = seen
    assert (rehearsed.key, rehearsed.run_id, rehearsed.attempt, rehearsed.app) == ("task", entry.pk, 1, "app")
    assert rehearsed.idempotency_key == real.idempotency_key
    rehearsed.log.info("it has a log")


def test_nothing_leaves_on_commit(wakeups: list[str]) -> None:
    called: list[str] = []
    entry = entry_of(enqueues, 1)
    wakeups.clear()
    preview = pipeteer.preview(entry)
    assert preview.value == 1
    assert any("trouble_keepsinput" in sql for sql in preview.sql)
    transaction.on_commit(lambda: called.append("now"))
    assert (wakeups, keeps.Input.objects.count(), called) == ([], 0, ["now"])


def test_the_body_sees_its_own_hooks_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def body(name: str, ctx: Any) -> str:
        transaction.on_commit(lambda: called.append(name))
        with transaction.atomic():
            transaction.on_commit(lambda: called.append(name))
        return name

    monkeypatch.setattr(record, "function", body)
    entry = entry_of(record, "x")
    pipeteer.preview(entry)
    with transaction.atomic():
        pipeteer.preview(entry)
        transaction.on_commit(lambda: called.append("the caller's"))
    assert called == ["the caller's"]


def test_a_workflows_child() -> None:
    recording.enqueue(1)
    drain(recording)
    entry = record.Input.objects.get()
    assert pipeteer.preview(entry).value == "step 0"
    assert recording.Input.objects.waiting().exists()
    drain()
    assert Ledger.objects.count() == 1


def test_a_statement_in_a_block_of_its_own() -> None:
    preview = pipeteer.preview(entry_of(careful_write, 1))
    assert preview.value == 1
    assert len([sql for sql in preview.sql if sql.startswith("INSERT")]) == 2  # the failed one is told, too
    assert Effect.objects.count() == 0


def test_an_async_body() -> None:
    entry = entry_of(writes_in_thread, "here")
    preview = pipeteer.preview(entry)
    assert (preview.value, [sql.split()[0] for sql in preview.sql]) == ("here", ["INSERT"])
    assert Effect.objects.count() == 0


@pytest.mark.parametrize("state", ["failed", "delayed", "claimed"])
def test_whatever_the_entrys_state(state: str) -> None:
    entry = entry_of(record, "x")
    if state == "failed":
        by_hand.engine(record, failed_at="2024-01-01T00:00Z", available_at=None, attempt=2)
    elif state == "claimed":
        by_hand.claim_one(record)
    before = by_hand.state(entry)
    assert pipeteer.preview(entry).value == "x"
    assert by_hand.state(entry) == before


class InATestCase(TestCase):
    """A transaction around everything, and one within it."""

    def test_preview(self) -> None:
        Ledger.objects.create(name="the test's own", run_id=0)
        entry = entry_of(record, "x")
        before = by_hand.state(entry)
        with self.captureOnCommitCallbacks() as callbacks:
            preview = pipeteer.preview(entry)
        assert (preview.value, len(preview.sql), callbacks) == ("x", 1, [])
        assert by_hand.state(entry) == before
        assert Ledger.objects.get().name == "the test's own"

    def test_an_error(self) -> None:
        Ledger.objects.create(name="the test's own", run_id=0)
        with pytest.raises(Trouble):
            pipeteer.preview(entry_of(raises_after_write, 1))
        assert (Ledger.objects.count(), Effect.objects.count()) == (1, 0)

    def test_a_lost_block(self) -> None:
        entry = entry_of(loses, "set_rollback")
        with pytest.raises(LostTransaction):
            pipeteer.preview(entry)
        assert (loses.Input.objects.get(), Effect.objects.count()) == (entry, 0)


# What the body raises


def test_errors_are_the_bodys_own() -> None:
    entry = entry_of(record_flaky, 1)
    before = by_hand.state(entry)
    with pytest.raises(Flaky, match="attempt 1 of 2"):
        pipeteer.preview(entry)
    assert_untouched(entry, before)
    by_hand.engine(record_flaky, attempt=1)
    assert pipeteer.preview(entry).value == 2  # the number that the next attempt will have


def test_values_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = entry_of(record, "x")
    monkeypatch.setattr(record, "function", lambda name, ctx: 1)
    with pytest.raises(InvalidValue, match="value: Input should be a valid string"):
        pipeteer.preview(entry)


def test_an_error_of_the_database() -> None:
    Effect.objects.create(name="there", unique=1)
    with pytest.raises(IntegrityError):
        pipeteer.preview(entry_of(loses, "swallow_in_savepoint"))


# Losing the transaction


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("set_rollback", "set_rollback"),
        ("swallow_save", "set_rollback"),
        ("close_connection", "connection was closed inside the body"),
    ],
)
def test_a_lost_transaction_is_named(how: str, message: str) -> None:
    entry = entry_of(loses, how)
    before = by_hand.state(entry)
    with pytest.raises(LostTransaction, match=message):
        pipeteer.preview(entry)
    assert_untouched(entry, before)


@pytest.mark.parametrize("how", ["raw_commit", "raw_commit_and_begin", "raw_rollback", "raw_commit_and_raise"])
def test_a_body_that_ends_the_transaction_itself(how: str) -> None:
    entry = entry_of(loses, how)
    before = by_hand.state(entry)
    with pytest.raises(BrokenAtomicity, match="the body ended the transaction itself") as error:
        pipeteer.preview(entry)
    assert "only rehearsed" in error.value.__notes__[0]
    assert (by_hand.state(entry), loses.Output.everything.exists()) == (before, False)
    assert not connection.in_atomic_block


def test_ddl_on_mariadb() -> None:
    entry = entry_of(makes_table, 1)
    try:
        if VENDOR == "mysql":
            with pytest.raises(BrokenAtomicity):
                pipeteer.preview(entry)
        else:
            assert pipeteer.preview(entry).sql[-1].startswith("CREATE TABLE")
            assert "trouble_made" not in connection.introspection.table_names()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS trouble_made")


def test_writes_that_would_escape() -> None:
    with pytest.raises(LostTransaction, match="from another thread"):
        pipeteer.preview(entry_of(writes_in_thread, "to_thread"))
    assert Effect.objects.count() == 0


# What cannot be previewed


@pytest.mark.parametrize(("pipeline", "value"), [(double, 1), (trace, "x"), (quad, 1), (appraise, None)])
def test_only_atomic_activities(pipeline: Any, value: Any) -> None:
    with pytest.raises(InvalidValue, match=rf"{pipeline.id} is no atomic activity.*activity\(atomic=True\)"):
        pipeteer.preview(entry_of(pipeline, value))
    assert Ledger.objects.count() == 0


@pytest.mark.parametrize("what", [None, 1, record, "task"])
def test_only_entries(what: Any) -> None:
    with pytest.raises(TypeError, match=r"such as ship\.Input\.objects\.first"):
        pipeteer.preview(what)


def test_an_entry_that_is_not_saved() -> None:
    with pytest.raises(InvalidValue, match="save it first"):
        pipeteer.preview(record.Input(key="new", value="x"))


def test_an_entry_that_is_gone() -> None:
    entry = entry_of(record, "x")
    drain(record)
    with pytest.raises(EntryChanged, match="left its queue"):
        pipeteer.preview(entry)
    assert Ledger.objects.count() == 1


@pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite locks no rows")
def test_an_entry_that_is_being_worked_on() -> None:
    entry = entry_of(record, "x")
    with transaction.atomic():
        record.Input.objects.select_for_update().get()
        (error,) = by_hand.in_threads(lambda: pipeteer.preview(entry))
    assert isinstance(error, EntryChanged)
    assert Ledger.objects.count() == 0
