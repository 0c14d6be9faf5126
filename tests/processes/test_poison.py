"""An entry that kills its process is parked; its neighbours are not harmed."""

from __future__ import annotations

import os
import signal

import pytest
from django.db import transaction

from pipeteer_django.queues.claim import plain
from tests.conftest import StartManage
from tests.perils.pipelines import hazard, hazard_async, linger, poison

from .tools import Process, configured, eventually, hear, log, outputs, stop, times_run

QUICK = configured(RESERVE=1)


def test_it_is_parked_after_three_crashes(start_worker: StartManage) -> None:
    with transaction.atomic():
        for n in range(5):
            poison.enqueue(n, key=str(n))
        culprit = poison.enqueue(-1, key="culprit")
        for n in range(5, 25):
            poison.enqueue(n, key=str(n))
    workers: list[Process] = []

    def over() -> bool:
        """Start a worker whenever the last one has died."""
        if not workers or workers[-1].poll() is not None:
            workers.append(start_worker("poison", env=QUICK))
        return poison.Input.objects.failed().exists() and poison.Output.everything.count() == 25

    eventually(over, "the culprit is parked and the others are done")
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL] * 3 + [None]
    assert outputs(poison).keys() == {str(n) for n in range(25)}
    entry = poison.Input.objects.get()
    assert (entry.id, entry.available_at, entry.reserved_by) == (culprit.id, None, "")
    assert "lost 3 times" in entry.error
    assert times_run()[culprit.id] == 3
    hear(workers[-1], "given up")
    stop(workers[-1])


def test_others_do_not_starve_a_suspect(start_worker: StartManage) -> None:
    """It must run alone; a steady flow of other entries gives way."""
    poison.enqueue(1, key="suspect")
    plain(poison.Input, "default").update(reserved_by="somebody who died", attempt=1)
    with transaction.atomic():
        for n in range(60):
            linger.enqueue(0.2, key=str(n))
    worker = start_worker("poison", "linger", "--concurrency", "2", env=configured(RESERVE=60))
    hear(worker, "<poison suspect>")
    assert linger.Input.objects.exists()
    eventually(lambda: outputs(poison), "the suspect is done")
    assert log(worker).count("<linger ") < 30
    stop(worker)


FULL = os.environ.get("PIPETEER_PROVE") == "full"
GOOD, CRASHES = 996 if FULL else 196, 3
REASONS = {
    "segfault": f"lost {CRASHES} times",
    "exit": f"lost {CRASHES} times",
    "memory": "MemoryError",
    "loop": "TimeoutError",
}


@pytest.mark.once
@pytest.mark.timeout(400)
def test_whatever_one_entry_does_to_its_process_the_others_are_done(start_worker: StartManage) -> None:
    """A segmentation fault, no memory left, an exit, and loops without end: on a thread, and on the event loop."""
    culprits = {}
    with transaction.atomic():
        stuck = hazard_async.enqueue("loop", key="loop")
        for kind in REASONS:
            # So far apart that no two run in one process before they are known.
            hazard.enqueue_many(["fine"] * (GOOD // len(REASONS)))
            culprits[kind] = hazard.enqueue(kind, key=kind)
    supervisor = start_worker(
        "hazard", "hazard_async", "--processes", "2", env=configured(RESERVE=3, MAX_CRASHES=CRASHES)
    )
    parked, stopped = hazard.Input.objects.failed(), hazard_async.Input.objects.failed()
    eventually(lambda: hazard.Output.everything.count() == GOOD, "the good ones are done", 150)
    eventually(lambda: parked.count() == len(culprits), "the bad ones are parked", 90)
    eventually(stopped.exists, "so is the one that blocks the loop", 90)
    hear(supervisor, "has been stuck for", times=CRASHES)

    assert max(hazard.Output.everything.values_list("attempt", flat=True)) <= 2
    ran, said = times_run("hazard"), log(supervisor)
    for kind, culprit in culprits.items():
        assert REASONS[kind] in parked.get(id=culprit.id).error
        # (Of the other two an attempt may have ended with its process, beside one of these.)
        assert ran[culprit.id] == CRASHES if "lost" in REASONS[kind] else ran[culprit.id] in (2, 3)
    assert REASONS["exit"] in stopped.get(id=stuck.id).error
    assert said.count("<hazard_async loop>") == said.count("has been stuck for") == CRASHES
    assert said.count("ended with status -11") == said.count("ended with status 1;") == CRASHES
    stop(supervisor)
