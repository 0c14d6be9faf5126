"""The disk of the database is full: it is said, nothing is half done, and work goes on once there is room."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from pipeteer_django.pipelines.pipeline import Pipeline
from tests.conftest import StartManage
from tests.perils.pipelines import errand, linger, linger_atomic
from tests.prove.servers import Server
from tests.testapp.models import Ledger

from .errands import IDS, assert_exact, enqueue
from .own_server import Own, execute, fill, own_server, small_disk
from .tools import ON_SQLITE, eventually, hear, log, ready, stop

pytestmark = [
    pytest.mark.skipif(connection.vendor == "mysql", reason="MariaDB itself waits until there is room, in silence"),
    pytest.mark.timeout(300),
]
COUNT = 150
SAID = "database or disk is full" if ON_SQLITE else "No space left on device"


@pytest.fixture
def own(worker_env: dict[str, str]) -> Iterator[tuple[Own, Path]]:
    """A database, and the small disk that it is on."""
    with small_disk(24 if ON_SQLITE else 12) as disk:

        @contextmanager
        def there(vendor: str) -> Iterator[tuple[Server, Path]]:
            yield Server(disk), disk

        with own_server(there) if ON_SQLITE else own_server() as own, own.used():
            if not ON_SQLITE:
                _move_to(disk, own)
            yield own, disk


def _move_to(disk: Path, own: Own) -> None:
    """The tables that grow, with their indexes. (Without room for its log, PostgreSQL would stop: see test_server.)"""
    pipelines: list[Pipeline[Any, Any]] = [errand, linger, linger_atomic]
    tables = {model._meta.db_table for pipeline in pipelines for model in pipeline.models.values()}
    place = disk / "tablespace"
    place.mkdir()
    shutil.chown(place, getattr(own.server, "user", None))
    execute(f"CREATE TABLESPACE small LOCATION '{place}'")
    execute(*(f'ALTER TABLE "{table}" SET TABLESPACE small' for table in (*tables, Ledger._meta.db_table)))


def test_it_is_full_for_a_while(start_worker: StartManage, own: tuple[Own, Path]) -> None:
    mine, disk = own
    enqueue(COUNT)
    worker = start_worker(*IDS, env=mine.environment())
    ready(worker)
    eventually(lambda: Ledger.objects.count() > 5, "work is under way")
    filler = fill(disk)
    hear(worker, SAID)
    hear(worker, "The database does not answer, trying again until it does")
    filler.unlink()
    assert_exact(COUNT)
    stop(worker)
    assert "BrokenAtomicity" not in log(worker)
    if ON_SQLITE:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA integrity_check")
            assert cursor.fetchall() == [("ok",)]
