"""Clocks that disagree: workers an hour apart, time zones, and the hour that is skipped or repeated."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.utils import timezone

from pipeteer_django.queues.database import time_of
from tests.conftest import ROOT, StartManage
from tests.perils.pipelines import linger
from tests.testapp.models import Ledger

from .errands import IDS, assert_exact, enqueue
from .tools import ON_SQLITE, RESERVE, eventually, finished, hear, log, ready, stop, times_run

LIBRARIES = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), *Path("/usr/lib/faketime").glob("libfaketime.so.1")]
pytestmark = pytest.mark.skipif(not LIBRARIES, reason="NOT RUN: libfaketime is not here (Debian: faketime)")


At = Callable[[str], dict[str, str]]
SETTINGS = """
import threading, time
from tests.settings import *
# The library takes the absolute time at which Python's own ends for one of the clock that it changes.
time.sleep = lambda seconds: threading.Event().wait(seconds)
"""


@pytest.fixture
def at(tmp_path: Path) -> At:
    """The environment of a process whose clock is wrong by so much. What counts seconds goes on as it did."""
    (tmp_path / "clock_settings.py").write_text(SETTINGS)
    path = {"DJANGO_SETTINGS_MODULE": "clock_settings", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    library = {"LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return lambda offset: path | library | {"FAKETIME": offset}


@pytest.mark.skipif(ON_SQLITE, reason="on SQLite there is one clock, its host's")
def test_workers_an_hour_apart(start_worker: StartManage, at: At) -> None:
    """Leases are judged by the database's clock: what lasts runs once, and who dies is taken over in time."""
    workers = [start_worker(*IDS[:-1], "2", env=at(offset)) for offset in ("+1h", "-1h", "+0")]
    ready(*workers)
    long = [linger.enqueue(2.5 * RESERVE, key=f"long-{n}") for n in range(6)]
    eventually(lambda: Ledger.objects.count() == 6, "they are under way")
    for run in long:
        assert run.result(timeout=40) == 1
    assert set(times_run().values()) == {1}
    linger.Output.everything.all().delete()
    enqueue(40)
    assert_exact(40)
    for worker in workers:
        stop(worker)
        assert "lease was lost" not in log(worker)


@pytest.mark.skipif(ON_SQLITE, reason="on SQLite there is one clock, its host's")
@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_who_dies_with_a_wrong_clock_is_taken_over_in_time(start_worker: StartManage, at: At, offset: str) -> None:
    wrong = start_worker("linger", env=at(offset))
    run = linger.enqueue(1.0, key="one")
    hear(wrong, "<linger one>")
    left = (linger.Input.objects.get().available_at - time_of("default")).total_seconds()
    assert 0 < left <= RESERVE + 0.1
    wrong.kill()
    right = start_worker("linger")
    assert run.result(timeout=30) == 2
    stop(right)


@pytest.mark.parametrize("change", [datetime(2027, 3, 28, 1, tzinfo=UTC), datetime(2027, 10, 31, 1, tzinfo=UTC)])
def test_the_hour_that_is_skipped_or_repeated(start_worker: StartManage, at: At, change: datetime) -> None:
    """In Paris, a moment before it. (All of this worker's clock is ahead, as the database's is on SQLite.)"""
    ahead = (change - timezone.now()).total_seconds() - 8
    worker = start_worker("linger", env=at(f"+{ahead:.0f}") | {"TZ": "Europe/Paris"})
    ready(worker)
    for n in range(20):
        linger.enqueue(3 * RESERVE if n < 3 else 0.3, key=str(n))
    eventually(finished(linger, 20), "all are done")
    assert set(times_run().values()) == {1}
    assert set(linger.Output.everything.values_list("attempt", flat=True)) == {1}
    stop(worker)
    assert "lease" not in log(worker)
