"""What `pipeteer_worker` and `pipeteer_proxy` say before they begin; --drain and --reload."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from django.conf import settings

from pipeteer_django.queues.claim import plain
from tests.conftest import ROOT, StartManage
from tests.perils.pipelines import linger
from tests.testapp.pipelines import approval, approve, careful, double, flaky, quad

from .tools import ON_SQLITE, Process, end, eventually, hear, log, outputs, ready, stop


def failed(process: Process) -> str:
    """What it said when it refused to work."""
    assert end(process) == 1
    said = log(process)
    assert "Traceback" not in said
    return said


def test_what_it_refuses(start_worker: StartManage, start_manage: StartManage, tmp_path: Path) -> None:
    unknown = start_worker("quod")
    task = start_worker("approve")
    name = str(tmp_path / "empty.sqlite3") if ON_SQLITE else "pipeteer_no_such_database"
    empty = start_worker("quad", env={"PIPETEER_TEST_DATABASE_NAME": name})
    assert "No pipeline is called 'quod'. Did you mean quad" in failed(unknown)
    assert "approve is a task: people complete it" in failed(task)
    said = failed(empty)
    if ON_SQLITE:
        assert "Have the migrations run? python manage.py migrate" in said
    else:
        assert "does not answer" in said
        assert "migrate" not in said


def test_drain_ends_when_all_is_done(start_worker: StartManage) -> None:
    """Retries that are pending included; what waits for people is left."""
    runs = [quad.enqueue(x) for x in range(10)]
    flaky.enqueue(2)
    careful.enqueue("no")
    approval.enqueue("may I?", key="open")
    worker = start_worker("--drain")
    assert end(worker) == 0
    assert len(outputs(quad)) == len(runs)
    assert list(outputs(flaky).values()) == [3]
    assert list(outputs(careful).values()) == ["Boom: no"]
    assert approve.Input.objects.count() == approval.Input.objects.count() == 1
    assert "Worker stopped" in log(worker)


def test_reload_starts_again_and_hands_back(start_worker: StartManage, tmp_path: Path) -> None:
    watched = tmp_path / "reload_settings.py"
    watched.write_text("from tests.settings import *\n")
    worker = start_worker(
        "linger", "--reload", env={"DJANGO_SETTINGS_MODULE": "reload_settings", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    )
    ready(worker)
    linger.enqueue(60.0, key="one")
    hear(worker, "<linger one>")
    # Its reloader may not have looked yet at a file this young: touched again until it has.
    for moment in range(1, 100):
        os.utime(watched, times=(moment, moment))
        try:
            hear(worker, "Handing back 1 entries", within=3)
            break
        except AssertionError:
            continue
    hear(worker, "Worker ", times=2)
    hear(worker, "<linger one>", times=2)
    assert linger.Input.objects.get().attempt == 1
    assert "Traceback" not in log(worker)
    worker.send_signal(signal.SIGTERM)
    hear(worker, "Handing back 1 entries", times=2)
    assert end(worker) == 0
    assert linger.Input.objects.ready().count() == 1


def test_a_row_whose_caller_is_unknown_is_left_alone(start_worker: StartManage) -> None:
    """Newer code than this worker's may know it."""
    double.enqueue(1, key="theirs")
    plain(double.Input, "default").update(caller="not_deployed_here", step_id=1)
    worker = start_worker("double", "quad")
    assert quad.enqueue(1).result(timeout=20) == 4
    eventually(lambda: double.Input.objects.get().epoch >= 2, "it is claimed and handed back")
    entry = double.Input.objects.get()
    assert (entry.attempt, entry.crashes, entry.failed_at, entry.reserved_by) == (0, 0, None, "")
    assert entry.caller == "not_deployed_here"
    stop(worker)
    assert "ERROR" not in log(worker)
    assert not double.Output.everything.exists()
    plain(double.Input, "default").update(caller="", step_id=None)


def test_ports_in_use(start_manage: StartManage) -> None:
    proxy = start_manage("pipeteer_proxy")
    hear(proxy, "Wake-up proxy: publishers")
    said = failed(start_manage("pipeteer_proxy"))
    assert settings.PIPETEER["PUB_URL"] in said
    assert "in use" in said
    proxy.send_signal(signal.SIGINT)
    assert end(proxy) == 0
    assert "Traceback" not in log(proxy)
