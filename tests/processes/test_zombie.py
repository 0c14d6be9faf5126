"""Workers that sleep through their lease, and go on when others have long done their work."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.conftest import StartManage
from tests.failpoints import failpoint
from tests.mutants import mutant
from tests.perils.pipelines import linger, linger_atomic, outing
from tests.testapp.models import Ledger

from .tools import (
    ON_SQLITE,
    Process,
    consume,
    eventually,
    finished,
    frozen,
    hear,
    kill_sessions,
    log,
    ready,
    sessions,
    stop,
    times_run,
)

REFUSED = "lease was lost"


def freeze(start_worker: StartManage, pipeline: Any, *points: str, env: dict[str, str] | None = None) -> list[Process]:
    """Workers that hold one entry each and stopped at these points."""
    workers = [
        start_worker(pipeline.id, "--concurrency", "1", env=(env or {}) | failpoint("stop", point)) for point in points
    ]
    ready(*workers)
    for n in range(len(points)):
        pipeline.enqueue(0.0, key=str(n))
    for worker in workers:
        eventually(lambda w=worker: frozen(w), "it stops")
    return workers


def others_finish(start_worker: StartManage, pipeline: Any, count: int) -> set[int]:
    """Another worker does it all after the lease, and a consumer takes the outputs away."""
    other = start_worker(pipeline.id)
    eventually(finished(pipeline, count), "another worker takes over")
    stop(other)
    taken = consume(pipeline)
    assert [entry.attempt for entry in taken] == [2] * count  # type: ignore[attr-defined]
    return {entry.run_id for entry in taken}  # type: ignore[attr-defined]


def wake(workers: list[Process]) -> None:
    for worker in workers:
        worker.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("pipeline", "points"),
    [
        (linger, ["after_claim", "body_start", "body_end"]),
        # An atomic body that began keeps its row locked, see below.
        (linger_atomic, ["after_claim"]),
    ],
    ids=["activity", "atomic"],
)
def test_a_zombie_is_refused(start_worker: StartManage, pipeline: Any, points: list[str]) -> None:
    zombies = freeze(start_worker, pipeline, *points)
    runs = others_finish(start_worker, pipeline, len(points))
    assert len(runs) == len(points)
    wake(zombies)
    for zombie in zombies:
        hear(zombie, REFUSED)
        stop(zombie)
        assert "1 lost leases" in log(zombie)
    assert not pipeline.Output.everything.exists()
    if pipeline is linger_atomic:
        assert times_run() == dict.fromkeys(runs, 1)


def test_a_zombie_workflow_is_refused(start_worker: StartManage) -> None:
    """It would insert its calls a second time."""
    # It keeps no runs in memory, or the body would begin only once.
    cold = {"PIPETEER_TEST_SETTINGS": '{"CACHE_SIZE": 0}'}
    zombie = start_worker("outing", "--concurrency", "1", env=cold | failpoint("stop", "body_start", 2))
    other = start_worker("linger")
    run = outing.enqueue(0.0)
    eventually(lambda: frozen(zombie), "it stops")
    third = start_worker("outing")
    assert run.result(timeout=20) == 2
    consume(outing)
    wake([zombie])
    hear(zombie, REFUSED)
    assert outing.Step.objects.count() == Ledger.objects.count() == 2
    assert not outing.Output.everything.exists()
    assert not linger.Input.objects.exists()
    for worker in (zombie, other, third):
        stop(worker)


@pytest.mark.skipif(ON_SQLITE, reason="on SQLite a stopped transaction stops every writer: see the next test")
@pytest.mark.parametrize("pipeline", [linger, linger_atomic], ids=["activity", "atomic"])
def test_a_zombie_that_stopped_within_its_transaction(start_worker: StartManage, pipeline: Any) -> None:
    """While its session lives nobody can take over; when the server ends it, the zombie's writes are gone."""
    mine = set(sessions())
    zombies = freeze(start_worker, pipeline, "before_commit")
    kill_sessions(set(sessions()) - mine)
    runs = others_finish(start_worker, pipeline, 1)
    wake(zombies)
    # It cannot know whether its COMMIT was still heard: a row that is gone may be its own doing. So it says nothing.
    stop(zombies[0])
    assert not pipeline.Output.everything.exists()
    if pipeline is linger_atomic:
        assert times_run() == dict.fromkeys(runs, 1)


@pytest.mark.skipif(not ON_SQLITE, reason="elsewhere a stopped transaction holds only its own rows")
def test_a_transaction_that_stops_delays_all_and_harms_nobody(start_worker: StartManage) -> None:
    (zombie,) = freeze(start_worker, linger_atomic, "before_commit")
    # Some of Django's own checks write, which nobody can now.
    other = start_worker("linger_atomic", "--skip-checks")
    ready(other)
    wake([zombie])
    eventually(finished(linger_atomic, 1), "it commits")
    assert list(times_run().values()) == [1]
    stop(zombie)
    stop(other)


@pytest.mark.parametrize(
    ("pipeline", "name"), [(linger, "no_fence"), (linger_atomic, "no_atomic_fence")], ids=["activity", "atomic"]
)
def test_without_the_fence_a_zombie_does_do_harm(start_worker: StartManage, pipeline: Any, name: str) -> None:
    """The same schedule as above, with the fence taken out: these tests can fail."""
    zombies = freeze(start_worker, pipeline, "after_claim", env=mutant(name))
    runs = others_finish(start_worker, pipeline, 1)
    wake(zombies)
    eventually(lambda: pipeline.Output.everything.exists(), "a second output of one run")
    assert set(pipeline.Output.everything.values_list("run_id", flat=True)) == runs
    assert times_run() == dict.fromkeys(runs, 2)
