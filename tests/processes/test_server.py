"""The database server itself is the fault: it crashes, takes no connection, or no write."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from django.db import connections
from pytest_django.plugin import DjangoDbBlocker

from pipeteer_django.queues.database import time_of
from tests.conftest import StartManage
from tests.perils.pipelines import linger, linger_atomic
from tests.testapp.models import Ledger

from .errands import IDS, assert_exact, clean, enqueue
from .own_server import Own, execute, own_server
from .tools import ON_SQLITE, RESERVE, configured, consume, eventually, finished, hear, log, ready, stop

pytestmark = [
    pytest.mark.skipif(ON_SQLITE, reason="SQLite has no server"),
    pytest.mark.timeout(300),
]
AWAY, BACK = "The database does not answer", "The database answers again"
POSTGRES = not ON_SQLITE and connections["default"].vendor == "postgresql"


@pytest.fixture(scope="module")
def server(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Own]:
    with django_db_blocker.unblock(), own_server() as own:
        yield own


@pytest.fixture
def own(server: Own, worker_env: dict[str, str]) -> Iterator[Own]:
    """In use, and empty at the end."""
    with server.used():
        yield server
        clean()


def assert_calm(said: str) -> None:
    """It says once that the database is away, and once that it is back."""
    assert re.findall(f"{AWAY}|{BACK}", said) == [AWAY, BACK] * said.count(BACK)
    assert "given up\n" not in said
    assert "Traceback" not in said


def test_it_crashes_three_times_under_load(start_worker: StartManage, own: Own) -> None:
    enqueue(40)
    workers = [start_worker(*IDS, env=own.environment() | configured(MAX_CRASHES=100)) for _ in range(2)]
    ready(*workers)
    for number in range(3):
        count = Ledger.objects.count()
        eventually(lambda c=count: Ledger.objects.count() > c + 10 or finished(linger, 40)(), "work goes on")
        connections["default"].close()
        own.server.crash(hard=number == 1)
        for worker in workers:
            hear(worker, BACK, times=number + 1)
    assert_exact(40)
    for worker in workers:
        stop(worker)
        assert_calm(log(worker))


def test_it_takes_no_write_for_a_while(start_worker: StartManage, own: Own) -> None:
    """As a primary that was demoted. No attempt is charged, nothing is given up, no process ends."""
    _user(20)
    worker = start_worker(*IDS, env=own.environment("worker"))
    ready(worker)
    enqueue(20)
    eventually(lambda: Ledger.objects.count() > 5, "work is under way")
    _read_only(True)
    hear(worker, AWAY)
    _read_only(False)
    assert_exact(20)
    stop(worker)
    assert_calm(log(worker))


def test_it_takes_no_connection_for_a_while(start_worker: StartManage, own: Own) -> None:
    """Leases are renewed by connections that are there already; bodies that cannot begin are not charged."""
    _user(3)
    worker = start_worker("linger_atomic", "--concurrency", "5", env=own.environment("worker"))
    ready(worker)
    runs = [linger_atomic.enqueue(0.3, key=str(n)) for n in range(8)]
    hear(worker, "could not begin")
    eventually(finished(linger_atomic, 8), "all are done, one at a time")
    assert {entry.attempt for entry in consume(linger_atomic)} == {1}  # type: ignore[attr-defined]
    assert Ledger.objects.count() == len(runs)
    stop(worker)
    assert "lease was lost" not in log(worker)
    assert "given up\n" not in log(worker)


def test_it_is_in_another_time_zone(start_worker: StartManage, own: Own) -> None:
    """Leases are as long as they should be, and of two workers each leaves the other's alone."""
    _time_zone("+05:00")
    try:
        workers = [start_worker(*IDS, env=own.environment()) for _ in range(2)]
        ready(*workers)
        run = linger.enqueue(2.5 * RESERVE, key="long")
        eventually(Ledger.objects.exists, "it is under way")
        left = (linger.Input.objects.get().available_at - time_of("default")).total_seconds()
        assert 0 < left <= RESERVE
        assert run.result(timeout=30) == 1
        assert [entry.attempt for entry in consume(linger)] == [1]  # type: ignore[attr-defined]
        enqueue(20)
        assert_exact(20)
        for worker in workers:
            stop(worker)
    finally:
        _time_zone("SYSTEM")


def _time_zone(offset: str) -> None:
    """Of all sessions from now on."""
    if POSTGRES:
        name = "UTC" if offset == "SYSTEM" else "Asia/Karachi"
        execute(f"ALTER DATABASE postgres SET timezone = '{name}'")
    else:
        execute(f"SET GLOBAL time_zone = '{offset}'")
    connections["default"].close()


def _user(connections_at_most: int) -> None:
    """A user called "worker", who is no superuser."""
    if POSTGRES:
        execute(
            "DROP OWNED BY worker" if _exists() else "CREATE ROLE worker LOGIN",
            f"ALTER ROLE worker CONNECTION LIMIT {connections_at_most}",
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO worker",
            "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO worker",
        )
    else:
        execute(
            "CREATE OR REPLACE USER worker@localhost",
            f"GRANT ALL ON chaos.* TO worker@localhost WITH MAX_USER_CONNECTIONS {connections_at_most}",
        )


def _exists() -> bool:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'worker'")
        return bool(cursor.fetchone()[0])


def _read_only(on: bool) -> None:
    if not POSTGRES:
        execute(f"SET GLOBAL read_only = {int(on)}")
        return
    execute(
        f"ALTER ROLE worker SET default_transaction_read_only = {'on' if on else 'off'}",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'worker'",
    )
