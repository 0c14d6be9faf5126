"""The database ends every session, again and again, in the middle of the work."""

from __future__ import annotations

import signal
import time

import pytest
from django.db import transaction

from tests.conftest import StartManage
from tests.failpoints import failpoint
from tests.perils.pipelines import errand, linger, linger_atomic, precious
from tests.testapp.models import Ledger

from .tools import (
    ON_SQLITE,
    configured,
    end,
    eventually,
    finished,
    frozen,
    hear,
    kill_sessions,
    locked,
    log,
    outputs,
    ready,
    sessions,
    stop,
    times_run,
)


@pytest.mark.skipif(ON_SQLITE, reason="SQLite has no sessions")
def test_nothing_is_lost_or_doubled(start_worker: StartManage) -> None:
    before = set(sessions())
    workers = [
        start_worker("errand", "linger_atomic", "linger", "--concurrency", "10", env=configured(MAX_CRASHES=100))
        for _ in range(2)
    ]
    ready(*workers)
    with transaction.atomic():
        errands = [errand.enqueue(0.02, key=str(n)) for n in range(40)]
        plain = [linger.enqueue(0.02, key=str(n)) for n in range(40)]
    for _ in range(12):
        count = Ledger.objects.count()
        deadline = time.monotonic() + 3
        eventually(lambda n=count, d=deadline: Ledger.objects.count() > n or time.monotonic() > d, "work goes on")
        kill_sessions(set(sessions()) - before)
    eventually(finished(errand, len(errands)), "the errands are finished")
    eventually(finished(linger, len(plain)), "the others are finished")

    assert outputs(errand).keys() == outputs(linger).keys() == {str(n) for n in range(40)}
    assert not linger_atomic.Input.objects.exists()
    assert len(times_run("linger_atomic")) == Ledger.objects.filter(name="linger_atomic").count() == 80
    for worker in workers:
        stop(worker)
        said = log(worker)
        assert "given up\n" not in said
        assert "BrokenAtomicity" not in said
        assert said.count("The database does not answer") == said.count("The database answers again")


@pytest.mark.skipif(ON_SQLITE, reason="SQLite has no sessions")
def test_an_idle_worker_does_not_mind(start_worker: StartManage) -> None:
    before = set(sessions())
    worker = start_worker("linger", "precious", "--drain")
    other = start_worker("linger", "precious")
    ready(other)
    assert end(worker) == 0
    assert precious.enqueue("before").result(timeout=20) == 1
    kill_sessions(set(sessions()) - before)
    assert precious.enqueue("after").result(timeout=20) == 1
    assert linger.enqueue(0.0).result(timeout=20) == 1
    stop(other)


@pytest.mark.skipif(ON_SQLITE, reason="on SQLite there are no row locks")
def test_a_lock_that_lasts_costs_no_attempt(start_worker: StartManage) -> None:
    """Somebody holds the row of an activity with one attempt longer than anybody waits for a lock."""
    worker = start_worker("precious", env=failpoint("stop", "after_claim"))
    run = precious.enqueue("one")
    eventually(lambda: frozen(worker), "it has claimed the entry")
    with locked(precious.Input.objects.all()):
        worker.send_signal(signal.SIGCONT)
        hear(worker, "could not begin")
    assert run.result(timeout=20) == 1
    stop(worker)
