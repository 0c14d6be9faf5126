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

# Five points, and three kinds of work: fifteen schedules. In each the output is consumed and deleted before the zombie
# goes on, so that nothing but the fence can stop it.
FREE = ("after_claim", "body_start", "body_end", "before_settle")
"""Where a plain activity and a workflow hold no lock on their row: others can take over, and the zombie is refused."""
SETTLED = "after_commit"
"""Where it has settled itself: nobody takes over."""
LAST = dict.fromkeys((*FREE, SETTLED), 3) | {"body_end": 1}
"""How often a workflow of two steps comes there; to the end of its code only once."""


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
        # SQLite's only writer is stopped within a turn: see the next test but one.
        (linger, FREE[:3] if ON_SQLITE else FREE),
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


# It keeps no runs in memory, or the body would begin only once.
COLD = {"PIPETEER_TEST_SETTINGS": '{"CACHE_SIZE": 0}'}


def freeze_outing(start_worker: StartManage, point: str, number: int, env: dict[str, str] | None = None) -> Process:
    """A worker that stopped when the workflow came to this point for the n-th time; another one ran its activities."""
    zombie = start_worker("outing", "--concurrency", "1", env=COLD | failpoint("stop", point, number) | (env or {}))
    helper = start_worker("linger")
    ready(zombie, helper)
    outing.enqueue(0.0, key="0")
    eventually(lambda: frozen(zombie), "it stops")
    return zombie


def assert_once(zombie: Process) -> None:
    """The run's two steps are there once, and nothing else is."""
    stop(zombie)
    assert outing.Step.objects.count() == Ledger.objects.count() == 2
    assert not outing.Output.everything.exists()
    assert not linger.Input.objects.exists()
    assert not outing.Input.objects.exists()


@pytest.mark.parametrize(
    ("point", "number"),
    [
        # The last time it would leave a second output.
        *((point, LAST[point]) for point in (FREE[:3] if ON_SQLITE else FREE)),
        # The second time it would make its call again.
        ("body_start", 2),
    ],
)
def test_a_zombie_workflow_is_refused(start_worker: StartManage, point: str, number: int) -> None:
    zombie = freeze_outing(start_worker, point, number)
    other = start_worker("outing")
    eventually(finished(outing, 1), "another worker takes over")
    assert [entry.value for entry in consume(outing)] == [2]  # type: ignore[attr-defined]
    wake([zombie])
    hear(zombie, REFUSED)
    stop(other)
    assert_once(zombie)


@pytest.mark.parametrize("pipeline", [linger, linger_atomic], ids=["activity", "atomic"])
def test_who_stops_after_its_commit_has_nothing_left_to_do(start_worker: StartManage, pipeline: Any) -> None:
    (zombie,) = freeze(start_worker, pipeline, SETTLED)
    (entry,) = consume(pipeline)
    wake([zombie])
    stop(zombie)
    assert not pipeline.Output.everything.exists()
    assert not pipeline.Input.objects.exists()
    assert times_run() == {entry.run_id: 1}  # type: ignore[attr-defined]


def test_a_workflow_that_stops_after_its_commit_has_nothing_left_to_do(start_worker: StartManage) -> None:
    zombie = freeze_outing(start_worker, SETTLED, LAST[SETTLED])
    assert len(consume(outing)) == 1
    wake([zombie])
    assert_once(zombie)


@pytest.mark.skipif(not ON_SQLITE, reason="elsewhere nobody has to wait for it: see the tests before")
def test_a_workflow_that_stops_as_the_only_writer(start_worker: StartManage) -> None:
    """Nobody can take over; when it goes on it is no zombie, and settles."""
    zombie = freeze_outing(start_worker, "before_settle", LAST["before_settle"])
    other = start_worker("outing", "--skip-checks")
    ready(other)
    wake([zombie])
    eventually(finished(outing, 1), "it settles")
    assert len(consume(outing)) == 1
    stop(other)
    assert_once(zombie)


@pytest.mark.skipif(ON_SQLITE, reason="on SQLite a stopped transaction stops every writer: see the next test")
@pytest.mark.parametrize(
    ("pipeline", "points"),
    [(linger, ["before_commit"]), (linger_atomic, [*FREE[1:], "before_commit"])],
    ids=["activity", "atomic"],
)
def test_a_zombie_that_stopped_within_its_transaction(
    start_worker: StartManage, pipeline: Any, points: list[str]
) -> None:
    """While its session lives nobody can take over; when the server ends it, the zombie's writes are gone."""
    mine = set(sessions())
    zombies = freeze(start_worker, pipeline, *points)
    kill_sessions(set(sessions()) - mine)
    runs = others_finish(start_worker, pipeline, len(points))
    wake(zombies)
    # It cannot know whether its COMMIT was still heard: a row that is gone may be its own doing. So it says nothing.
    for zombie in zombies:
        stop(zombie)
    assert not pipeline.Output.everything.exists()
    if pipeline is linger_atomic:
        assert times_run() == dict.fromkeys(runs, 1)


@pytest.mark.skipif(not ON_SQLITE, reason="elsewhere a stopped transaction holds only its own rows")
@pytest.mark.parametrize(
    ("pipeline", "point"),
    [(linger, "before_settle"), *((linger_atomic, point) for point in (*FREE[1:], "before_commit"))],
)
def test_a_transaction_that_stops_delays_all_and_harms_nobody(
    start_worker: StartManage, pipeline: Any, point: str
) -> None:
    (zombie,) = freeze(start_worker, pipeline, point)
    # Some of Django's own checks write, which nobody can now.
    other = start_worker(pipeline.id, "--skip-checks")
    ready(other)
    wake([zombie])
    eventually(finished(pipeline, 1), "it commits")
    assert len(consume(pipeline)) == 1
    assert list(times_run().values()) == [1]
    stop(zombie)
    stop(other)
    assert not pipeline.Output.everything.exists()


@pytest.mark.parametrize(
    ("pipeline", "name", "points"),
    [(linger, "no_fence", FREE[:3] if ON_SQLITE else FREE), (linger_atomic, "no_atomic_fence", ["after_claim"])],
    ids=["activity", "atomic"],
)
def test_without_the_fence_a_zombie_does_do_harm(
    start_worker: StartManage, pipeline: Any, name: str, points: list[str]
) -> None:
    """The same schedules as above, with the fence taken out: these tests can fail."""
    zombies = freeze(start_worker, pipeline, *points, env=mutant(name))
    runs = others_finish(start_worker, pipeline, len(points))
    wake(zombies)
    eventually(lambda: pipeline.Output.everything.count() == len(points), "a second output of each run")
    assert set(pipeline.Output.everything.values_list("run_id", flat=True)) == runs
    assert times_run() == dict.fromkeys(runs, 2)


@pytest.mark.parametrize("point", FREE[:3] if ON_SQLITE else FREE)
def test_without_the_fence_a_zombie_workflow_is_not_refused(start_worker: StartManage, point: str) -> None:
    """It sets about settling. Only that an output copies from its entry, which is gone, keeps it from a second one."""
    zombie = freeze_outing(start_worker, point, LAST[point], env=mutant("no_fence"))
    start_worker("outing")
    eventually(finished(outing, 1), "another worker takes over")
    consume(outing)
    wake([zombie])
    hear(zombie, "KeyError")
    assert REFUSED not in log(zombie)
