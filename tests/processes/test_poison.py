"""An entry that kills its process is parked; its neighbours are not harmed."""

from __future__ import annotations

import signal

from django.db import transaction

from pipeteer_django.queues.claim import plain
from tests.conftest import StartManage
from tests.perils.pipelines import linger, poison

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
