"""Workers that keep runs in memory: nothing is replayed while they live, and nothing is lost when they don't."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest

from tests.conftest import StartManage
from tests.failpoints import POINTS, failpoint
from tests.perils.pipelines import march, stubborn, vigil

from .tools import Process, configured, end, eventually, finished, hear, log, outputs, ready, stop

RIGGED = {"MAX_CRASHES": 100}


def replayed(worker: Process) -> int:
    """What its last words say of steps that it went through again."""
    found = re.search(r"(\d+) steps replayed", log(worker))
    return int(found[1]) if found else 0


def beginnings(pipeline: Any, *workers: Process) -> int:
    """How often its code began at the beginning."""
    return sum(log(worker).count(f"<{pipeline.id} ") for worker in workers)


def test_a_run_of_a_thousand_steps_replays_none(start_worker: StartManage) -> None:
    worker = start_worker("march", "increment")
    ready(worker)
    march.enqueue(1000, key="long")
    eventually(finished(march, 1), "the run is over", within=120)
    stop(worker)
    assert outputs(march) == {"long": 1000}
    assert beginnings(march, worker) == 1
    assert replayed(worker) == 0
    assert "Traceback" not in log(worker)


def test_a_run_stays_with_the_worker_that_holds_it(start_worker: StartManage) -> None:
    workers = [start_worker("march", "increment") for _ in range(2)]
    ready(*workers)
    march.enqueue_many([60] * 4)
    eventually(finished(march, 4), "the runs are over")
    for worker in workers:
        stop(worker)
    assert beginnings(march, *workers) == 4
    assert sum(map(replayed, workers)) == 0


def test_when_its_holder_dies_another_one_replays_and_goes_on(start_worker: StartManage) -> None:
    first = start_worker("vigil", "increment", env=configured(**RIGGED))
    ready(first)
    vigil.enqueue(0.0, key="a")
    hear(first, "<vigil a>")
    eventually(lambda: vigil.Input.objects.waiting().exists(), "it sleeps")
    assert vigil.Input.objects.get().holder
    first.send_signal(signal.SIGKILL)
    assert end(first) == -signal.SIGKILL

    second = start_worker("vigil", "increment", env=configured(**RIGGED))
    ready(second)
    vigil.send("a", "word", "hello")
    eventually(finished(vigil, 1), "the run is over")
    stop(second)
    assert outputs(vigil) == {"a": "hello"}
    assert beginnings(vigil, second) == 1


def test_messages_and_timers_resume_a_kept_run(start_worker: StartManage) -> None:
    worker = start_worker("vigil", "increment")
    ready(worker)
    keys = [f"k{number}" for number in range(20)]
    for key in keys:
        vigil.enqueue(0.2, key=key)
    eventually(lambda: vigil.Input.objects.waiting().count() == len(keys), "all sleep")
    for key in keys:
        vigil.send(key, "word", key.upper())
    eventually(finished(vigil, len(keys)), "the runs are over")
    stop(worker)
    assert outputs(vigil) == {key: key.upper() for key in keys}
    assert beginnings(vigil, worker) == len(keys)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_evicted_runs_replay_and_arrive_at_the_same_place(start_worker: StartManage, size: int) -> None:
    worker = start_worker("stubborn", "linger_async", "increment", env=configured(CACHE_SIZE=size))
    ready(worker)
    keys = [f"k{number}" for number in range(8)]
    for number, key in enumerate(keys):
        stubborn.enqueue(number, key=key)
    eventually(lambda: stubborn.Input.objects.waiting().count() == len(keys), "all sleep")
    for key in keys:
        for child in (1, 0):
            stubborn.send(key, f"go-{child}", 10)
    eventually(finished(stubborn, len(keys)), "the runs are over")
    stop(worker)
    assert outputs(stubborn) == {key: 22 + number for number, key in enumerate(keys)}
    assert replayed(worker) > 0
    assert beginnings(stubborn, worker) > len(keys)
    for complaint in ("Traceback", "never awaited", "Exception ignored", "was destroyed", "Warning"):
        assert complaint not in log(worker)


def test_a_worker_that_stops_throws_its_runs_away_in_silence(start_worker: StartManage) -> None:
    worker = start_worker("stubborn", "linger_async", "increment")
    ready(worker)
    stubborn.enqueue_many(range(5))
    eventually(lambda: stubborn.Input.objects.waiting().count() == 5, "all sleep")
    stop(worker)
    for complaint in ("Traceback", "never awaited", "Exception ignored", "was destroyed"):
        assert complaint not in log(worker)
    assert stubborn.Step.objects.filter(done_at=None, pipeline="increment").count() == 0


def test_a_run_survives_the_death_of_its_worker_at_every_point_of_a_step(start_worker: StartManage) -> None:
    ids = ("march", "increment")
    rigged = configured(**RIGGED)
    for point in POINTS:
        if point.startswith("body_"):
            continue  # said by bodies on threads only
        run = march.enqueue(6, key=point)
        victim = start_worker(*ids, env=rigged | failpoint("kill", point, 3, "increment"))
        assert end(victim) == -signal.SIGKILL
        assert not march.Output.everything.filter(run_id=run.id).exists()
    worker = start_worker(*ids, env=rigged)
    ready(worker)
    eventually(finished(march, 5), "the rest is finished")
    stop(worker)
    assert set(outputs(march).values()) == {6}
    for run_id in march.Output.everything.values_list("run_id", flat=True):
        steps = march.Step.objects.filter(run_id=run_id).order_by("index")
        assert list(steps.values_list("index", "param", "result")) == [(n, n, n + 1) for n in range(6)]
