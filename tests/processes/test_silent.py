"""Atomic bodies that lose their transaction without a word, under a real worker: ten ways, each noticed and named."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from tests.conftest import StartManage
from tests.mutants import mutant
from tests.testapp.pipelines import record
from tests.trouble.models import Effect
from tests.trouble.pipelines import borrows_from_channels, loses, makes_table, writes_in_thread

from .tools import eventually, log, outputs, ready, stop

VENDOR = connection.vendor
DOOMED, CLOSED, ENDED = (
    "can only be rolled back",
    "connection was closed inside the body",
    "ended the transaction itself",
)
ELSEWHERE = "wrote from another thread, outside its transaction"
RETRIED = {
    (loses, "set_rollback"): DOOMED,
    (loses, "close_connection"): CLOSED,
    (loses, "close_old"): CLOSED,
    (loses, "swallow_save"): DOOMED,
    (loses, "swallow_inner_block"): DOOMED,
    (writes_in_thread, "to_thread"): ELSEWHERE,
    (writes_in_thread, "thread_sensitive"): ELSEWHERE,
}
"""What a body does, and what is said: a failed attempt, and nothing was written."""
PARKED = {(loses, "raw_commit_and_raise"): 1, (loses, "raw_rollback"): 0} | (
    {(makes_table, 1): 1} if VENDOR == "mysql" else {}
)
"""And those after which nobody knows: how many writes stay. It is never tried again."""


def test_each_is_noticed_and_named(start_worker: StartManage) -> None:
    entries: dict[tuple[Any, Any], Any] = {}
    for pipeline, value in (*RETRIED, *PARKED):
        entries[pipeline, value] = pipeline.enqueue(value)
    channels, fine = borrows_from_channels.enqueue(1), record.enqueue("fine")
    worker = start_worker("loses", "writes_in_thread", "makes_table", "borrows_from_channels", "record")
    ready(worker)
    assert fine.result(timeout=30) == "fine"
    for (pipeline, value), handle in entries.items():
        row = pipeline.Input.objects.filter(id=handle.id, attempt=1).exclude(error="")
        eventually(row.exists, f"{value} is noticed")
        (entry,) = row
        parked = (pipeline, value) in PARKED
        assert (ENDED if parked else RETRIED[pipeline, value]) in entry.error
        assert f"{pipeline.id} {entry.key!r}" in entry.error
        assert (entry.failed_at is not None) == parked
        assert not outputs(pipeline)
    # Whether Channels closes the connection under the body is up to its settings: all of it is there, or nothing is.
    settled = borrows_from_channels.Output.everything.filter(run_id=channels.id)
    failed = borrows_from_channels.Input.objects.filter(attempt=1).exclude(error="")
    eventually(lambda: settled.exists() or failed.exists(), "so is what Channels does")
    assert settled.exists() or "database_sync_to_async" in failed.get().error
    assert Effect.objects.count() == sum(PARKED.values()) + 2 * settled.count()
    stop(worker)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS trouble_made")


def test_without_a_look_at_the_transaction_an_output_has_no_effect(start_worker: StartManage) -> None:
    """The same, with the look taken out: this test can fail."""
    loses.enqueue("raw_rollback", key="one")
    worker = start_worker("loses", env=mutant("transaction_trusted"))
    eventually(lambda: outputs(loses), "it counts as done")
    assert not Effect.objects.exists()
    assert "<mutant transaction_trusted>" in log(worker)
    stop(worker)


pytestmark = pytest.mark.timeout(120)
