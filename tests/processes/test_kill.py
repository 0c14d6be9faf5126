"""Workers that die by SIGKILL at every point of an entry's way."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest
from django.db import transaction

from tests.conftest import StartManage
from tests.failpoints import POINTS, failpoint
from tests.perils.pipelines import errand, linger, linger_atomic
from tests.testapp.models import Ledger

from .tools import RESERVE, Process, configured, end, eventually, finished, outputs, ready, stop, times_run

RIGGED = configured(MAX_CRASHES=100)


def victims(start_worker: StartManage, ids: tuple[str, ...], points: list[tuple[str, int, str]]) -> list[Process]:
    """One worker per point, each running one entry at a time."""
    return [
        start_worker(*ids, "--concurrency", "1", env=RIGGED | failpoint("kill", point, number, pipeline))
        for point, number, pipeline in points
    ]


def all_die(workers: list[Process]) -> None:
    for worker in workers:
        assert end(worker) == -signal.SIGKILL


def rescue(start_worker: StartManage, ids: tuple[str, ...], pipeline: Any, count: int) -> float:
    """Let a healthy worker do the rest; seconds until that was done."""
    worker = start_worker(*ids, env=RIGGED)
    ready(worker)
    started = time.monotonic()
    eventually(finished(pipeline, count), "the rest is finished")
    took = time.monotonic() - started
    stop(worker)
    return took


@pytest.mark.parametrize("pipeline", [linger, linger_atomic], ids=["activity", "atomic"])
def test_an_entry_survives_the_death_of_its_worker_anywhere(start_worker: StartManage, pipeline: Any) -> None:
    points = [(point, 1, "") for point in POINTS]
    dying = victims(start_worker, (pipeline.id,), points)
    ready(*dying)
    with transaction.atomic():
        runs = [pipeline.enqueue(0.0, key=str(n)) for n in range(3 * len(points))]
    all_die(dying)

    took = rescue(start_worker, (pipeline.id,), pipeline, len(runs))
    assert outputs(pipeline).keys() == {run.key for run in runs}
    bodies = times_run()
    assert bodies.keys() == {run.id for run in runs}
    if pipeline is linger_atomic:
        assert set(bodies.values()) == {1}
    else:
        assert sum(bodies.values()) <= len(runs) + len(points)
    # Suspects are run one by one, each after what is left of its lease.
    assert took < RESERVE + 5


def test_a_workflow_survives_the_death_of_its_workers_anywhere(start_worker: StartManage) -> None:
    ids = ("errand", "linger_atomic")
    points = [(point, 2, "errand") for point in POINTS if point != "body_end"]
    points += [("before_commit", 1, "errand"), ("body_end", 1, "errand")]
    # Between these two the child is done and its parent not yet told.
    points += [("before_commit", 2, "linger_atomic"), ("after_commit", 1, "linger_atomic")]
    count = 3 * len(points)
    dying = victims(start_worker, ids, points)
    ready(*dying)  # or who comes first does it all
    with transaction.atomic():
        runs = [errand.enqueue(0.0, key=str(n)) for n in range(count)]
    all_die(dying)

    rescue(start_worker, ids, errand, count)
    assert outputs(errand).keys() == {run.key for run in runs}
    assert not linger_atomic.Input.objects.exists()
    assert Ledger.objects.count() == 2 * count
    assert errand.Step.objects.count() == 2 * count
    assert not errand.Step.objects.filter(order=None).exists()
    assert not linger_atomic.Output.everything.exists()


def test_the_first_survivor_takes_over_within_the_lease(start_worker: StartManage) -> None:
    survivor = start_worker("linger")
    ready(survivor)
    survivor.send_signal(signal.SIGSTOP)
    dying = start_worker("linger", env=failpoint("kill", "body_end"))
    run = linger.enqueue(0.0)
    assert end(dying) == -signal.SIGKILL
    died = time.monotonic()
    survivor.send_signal(signal.SIGCONT)
    assert run.result(timeout=20) == 2
    assert time.monotonic() - died < RESERVE + 1.5
    entry = linger.Output.objects.get()
    assert (entry.run_id, entry.attempt) == (run.id, 2)
