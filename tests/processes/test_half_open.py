"""A line to the database that goes silent and does not break: TCP answers, the server does not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest
from django.db import connection, transaction

from pipeteer_django.worker.deadline import Deadline, patience
from pipeteer_django.worker.lag import TICK
from tests.conftest import StartManage
from tests.perils.pipelines import errand, linger, linger_atomic
from tests.testapp.models import Ledger

from .line import Line
from .tools import (
    ON_SQLITE,
    configured,
    consume,
    end,
    eventually,
    finished,
    hear,
    log,
    ready,
    stop,
)

pytestmark = pytest.mark.skipif(ON_SQLITE, reason="SQLite has no line that could go silent")
MakeLine = Callable[..., Line]
REFUSED = "lease was lost"
GIVEN_UP = "has not answered one statement"


@pytest.mark.parametrize("hush", [b"", b"heartbeat_at"], ids=["all", "the renewals only"])
def test_its_work_is_taken_over_and_its_results_are_refused(
    start_worker: StartManage, make_line: MakeLine, hush: bytes
) -> None:
    line = make_line()
    # One at a time, or it would take its own entry over.
    cut_off = start_worker("linger", "--concurrency", "1", env=line.environment)
    ready(cut_off)
    line.hush = hush
    run = linger.enqueue(4.0 if hush else 1.0, key="one")
    hear(cut_off, "<linger one>")
    if not hush:
        line.silence()
    other = start_worker("linger")
    hear(other, "<linger one>")
    eventually(finished(linger, 1), "another worker takes over")
    (entry,) = consume(linger)
    assert (entry.run_id, entry.attempt) == (run.id, 2)  # type: ignore[attr-defined]
    line.speak()
    hear(cut_off, REFUSED)
    assert not linger.Output.everything.exists()
    assert not linger.Input.objects.exists()
    stop(other)
    if not hush:
        stop(cut_off)


def test_one_of_three_is_partitioned_past_its_lease(start_worker: StartManage, make_line: MakeLine) -> None:
    """In the middle of work of every kind. It comes back, and nothing is lost or doubled."""
    line = make_line()
    ids = ("errand", "linger_atomic", "linger", "--concurrency", "6")
    cut_off = start_worker(*ids, env=line.environment)
    others = [start_worker(*ids) for _ in range(2)]
    ready(cut_off, *others)
    with transaction.atomic():
        runs = {id: [id.enqueue(0.05, key=str(n)).id for n in range(40)] for id in (errand, linger)}
    eventually(lambda: log(cut_off).count("<linger") > 4, "it is at work")
    line.silence()
    line.forget()
    for pipeline in runs:
        eventually(finished(pipeline, 40), "the other two do it all")
        taken = [entry.run_id for entry in consume(pipeline)]  # type: ignore[attr-defined]
        assert sorted(taken) == runs[pipeline]
    line.speak()
    # On a slow machine it has given itself up by now.
    cut_off.terminate()
    assert end(cut_off) in (0, 1)
    for worker in others:
        stop(worker)
    assert not linger.Output.everything.exists()
    assert not errand.Output.everything.exists()
    atomic = Ledger.objects.filter(name="linger_atomic")
    assert atomic.count() == len(set(atomic.values_list("run_id", flat=True))) == 80
    assert not linger_atomic.Input.objects.exists()


def test_a_worker_whose_line_stays_silent_is_replaced(start_worker: StartManage, make_line: MakeLine) -> None:
    line = make_line()
    supervisor = start_worker("linger", "--processes", "2", env=line.environment | configured(RESERVE=1))
    ready(supervisor)
    line.silence()
    hear(supervisor, GIVEN_UP)
    hear(supervisor, "ended with status 1; starting another")
    line.speak()
    hear(supervisor, "Worker ", times=2)
    assert linger.enqueue(0.0).result(timeout=20) == 1
    stop(supervisor)


def test_a_worker_alone_ends_too(start_worker: StartManage, make_line: MakeLine) -> None:
    """Whoever started it is told by its status. Being asked to stop meanwhile changes nothing."""
    line = make_line()
    worker = start_worker("linger", "--grace", "1", env=line.environment | configured(RESERVE=1))
    ready(worker)
    line.silence()
    worker.terminate()
    assert end(worker) == 1
    assert GIVEN_UP in log(worker)


# What counts as waiting


@pytest.fixture
def deadline() -> tuple[Deadline, list[str]]:
    given_up: list[str] = []
    return Deadline("default", lambda: given_up.append("given up")), given_up


LOOKS = round(patience() / TICK)


def watched(deadline: Deadline, steps: list[Callable[[], None]]) -> None:
    """Do these, which are the engine's work, on another thread."""

    def work() -> None:
        try:
            for step in steps:
                step()
        finally:
            connection.close()

    thread = threading.Thread(target=deadline.watch, args=[work])
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def look(deadline: Deadline, times: int) -> Callable[[], None]:
    def steps() -> None:
        for _ in range(times):
            deadline.look()

    return steps


def ask() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@pytest.mark.django_db(transaction=True)
def test_one_answer_that_does_not_come(deadline: tuple[Deadline, list[str]], caplog: pytest.LogCaptureFixture) -> None:
    watching, given_up = deadline
    with caplog.at_level(logging.ERROR):
        watched(watching, [ask, look(watching, LOOKS - 1)])
        assert given_up == []
        watched(watching, [ask, look(watching, LOOKS + 1)])
    assert given_up == ["given up"]
    assert GIVEN_UP in caplog.text


@pytest.mark.django_db(transaction=True)
def test_work_that_gets_on_is_left_alone(deadline: tuple[Deadline, list[str]]) -> None:
    watching, given_up = deadline
    watched(watching, [look(watching, LOOKS - 1), ask] * 3)
    look(watching, 2 * LOOKS)()  # nobody waits
    assert given_up == []
