"""The database refuses a transaction of the engine's for no fault of what is in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, InternalError, connection, connections, transaction

from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import durable
from pipeteer_django.queues.turn import Appetite, take_turn, ticket_of
from tests.conftest import ROOT, StartManage
from tests.queues import by_hand
from tests.testapp.models import Ledger
from tests.testapp.pipelines import double
from tests.trouble.pipelines import ask, waits

from .errands import IDS, assert_exact, enqueue
from .tools import ON_SQLITE, eventually, log, ready, stop

POSTGRES = connection.vendor == "postgresql"


@pytest.mark.skipif(ON_SQLITE, reason="SQLite has one writer, and so no deadlocks")
@pytest.mark.django_db(transaction=True)
def test_a_deadlock_is_taken_again(start_worker: StartManage) -> None:
    """Somebody inserts the two children of a run in the other order. The database ends the worker's transaction."""
    waits.enqueue("why", key="one")
    first, second = (f"waits:{waits.Input.objects.get().id}:0:{n}" for n in range(2))
    # MariaDB ends the transaction that has changed less.
    Ledger.objects.bulk_create([Ledger(name="weight", run_id=n) for n in range(2000)])
    worker = None
    with transaction.atomic():
        Ledger.objects.update(run_id=0)
        _insert(second)
        worker = start_worker("waits")
        eventually(_somebody_waits, "the worker's turn waits for this transaction")
        _insert(first)  # or this raises: the database has ended the wrong one, and nothing was shown
        transaction.set_rollback(True)
    eventually(lambda: ask.Input.objects.count() == 2, "the turn is taken again")
    assert [ask.Input.objects.get(key=key).value for key in (first, second)] == ["why 0", "why 1"]
    assert waits.Step.objects.count() == 2
    stop(worker)
    said = log(worker)
    assert "does not answer" not in said
    assert "Traceback" not in said


def _insert(key: str) -> None:
    plain(ask.Input, "default").bulk_create([ask.Input(key=key, value="mine", output="output")])


def _somebody_waits() -> bool:
    """For a lock of this session's. On a connection of its own, whose snapshot is not that of a transaction."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        if POSTGRES
        else "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    )
    if not POSTGRES:
        time.sleep(0.15)  # who asks more often than every 0.1 s is told the same again and again
    other = connections["default"].copy()
    try:
        with other.cursor() as cursor:
            cursor.execute(sql)
            return bool(cursor.fetchone()[0])
    finally:
        other.close()


@pytest.mark.skipif(not POSTGRES, reason="MariaDB is refused at this isolation by a check, SQLite knows no other")
def test_serialization_failures_are_taken_again(start_worker: StartManage) -> None:
    """Two workers at SERIALIZABLE, where nearly every transaction of one upsets one of the other's."""
    env = {"PGOPTIONS": "-c default_transaction_isolation=serializable"}
    enqueue(40)
    workers = [start_worker(*IDS, env=env) for _ in range(2)]
    ready(*workers)
    assert_exact(40)
    for worker in workers:
        stop(worker)
        said = log(worker)
        assert "given up\n" not in said
        assert "lease was lost" not in said
    assert _rolled_back() > 10


def _rolled_back() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


READ_ONLY = {
    "sqlite": ("PRAGMA query_only = on", "PRAGMA query_only = off"),
    "postgresql": ("SET default_transaction_read_only = on", "SET default_transaction_read_only = off"),
    "mysql": ("SET SESSION TRANSACTION READ ONLY", "SET SESSION TRANSACTION READ WRITE"),
}


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_writable_again_at_once_parks_nobody() -> None:
    """A value that it refuses is looked for, one by one, and parked. A primary that was demoted is no such thing."""
    double.enqueue(1)
    ticket = ticket_of(by_hand.claim_one(double), Done(2))
    refuse, allow = READ_ONLY[connection.vendor]
    say = iter([refuse, allow, allow, allow])

    @contextmanager
    def fickle(using: str) -> Iterator[Any]:
        with connections[using].cursor() as cursor:
            cursor.execute(next(say))
        with durable(using) as proof:
            yield proof

    with pytest.raises(DatabaseError):
        take_turn([ticket], Appetite(""), using="default", commit=fickle)
    connections["default"].close()
    assert not double.Input.objects.failed().exists()
    assert take_turn([ticket], Appetite(""), using="default").settled.done == [ticket]
    assert double.Output.objects.get().value == 2


@pytest.mark.django_db(transaction=True)
def test_an_answer_that_broke_off_parks_nobody() -> None:
    """PgBouncer, as its server dies, leaves the driver in the middle of an answer: an InternalError without a code."""
    double.enqueue(1)
    ticket = ticket_of(by_hand.claim_one(double), Done(2))
    broken = iter([True])

    @contextmanager
    def fickle(using: str) -> Iterator[Any]:
        if next(broken, False):
            raise InternalError("received 2 results from command 'BEGIN'")
        with durable(using) as proof:
            yield proof

    with pytest.raises(InternalError):
        take_turn([ticket], Appetite(""), using="default", commit=fickle)
    assert not double.Input.objects.failed().exists()
    assert take_turn([ticket], Appetite(""), using="default", commit=fickle).settled.done == [ticket]


# A replica for reading


ROUTER = """
class Reading:
    def db_for_read(self, model, **hints):
        return "replica"

    def db_for_write(self, model, **hints):
        return "default"

    def allow_relation(self, first, second, **hints):
        return True
"""
SETTINGS = """
from tests.settings import *
DATABASES["replica"] = DATABASES["default"] | {"NAME": "/nowhere/no_such_database"}
DATABASE_ROUTERS = ["replica_router.Reading"]
"""


def test_no_statement_goes_to_a_replica(start_worker: StartManage, tmp_path: Path) -> None:
    """A check refuses such a router for pipelines (E005). Where somebody looks away, the engine does not read there."""
    (tmp_path / "replica_router.py").write_text(ROUTER)
    (tmp_path / "replica_settings.py").write_text(SETTINGS)
    env = {"DJANGO_SETTINGS_MODULE": "replica_settings", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    refused = start_worker(*IDS, env=env)
    assert refused.wait(60) == 1
    assert "pipeteer.E005" in log(refused)
    worker = start_worker(*IDS, "--skip-checks", env=env)
    ready(worker)
    enqueue(10)
    assert_exact(10)
    stop(worker)
    assert "no_such_database" not in log(worker)
    assert "Traceback" not in log(worker)
