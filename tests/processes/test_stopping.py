"""SIGTERM, Ctrl-C, and a second of them."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests.conftest import StartManage
from tests.perils.pipelines import block, linger, linger_async, linger_atomic, linger_in_thread

from .tools import ON_SQLITE, Process, configured, end, eventually, finished, hear, locked, log, outputs, ready, stop

LONG = 60.0


def begun(start_worker: StartManage, pipeline: Any, seconds: float, *arguments: str) -> Process:
    """A worker in the middle of one body."""
    worker = start_worker(pipeline.id, *arguments, env=configured(RESERVE=60))
    pipeline.enqueue(seconds, key="one")
    hear(worker, f"<{pipeline.id} one>")
    return worker


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_ends_within_the_grace_is_settled(start_worker: StartManage, number: signal.Signals) -> None:
    worker = begun(start_worker, linger, 1.0, "--grace", "30")
    worker.send_signal(number)
    hear(worker, "Stopping")
    linger.enqueue(0.0, key="too late")
    assert end(worker) == 0
    assert outputs(linger)["one"] == 1
    entry = linger.Input.objects.get(key="too late")
    assert (entry.reserved_by, entry.attempt) == ("", 0)
    assert "Traceback" not in log(worker)


@pytest.mark.parametrize("pipeline", [linger, linger_async, linger_in_thread, linger_atomic], ids=lambda p: p.id)
def test_what_does_not_is_handed_back(start_worker: StartManage, pipeline: Any) -> None:
    """At once, and without costing an attempt; the worker does not wait for threads that cannot be stopped."""
    worker = begun(start_worker, pipeline, LONG, "--grace", "0.5")
    worker.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert end(worker) == 0
    assert time.monotonic() - asked < 0.5 + 3
    entry = pipeline.Input.objects.get()
    assert (entry.reserved_by, entry.attempt, entry.crashes) == ("", 0, 0)
    assert list(pipeline.Input.objects.ready()) == [entry]
    assert "Handing back 1 entries" in log(worker)
    assert "Traceback" not in log(worker)
    pipeline.Input.objects.update(value=0.0)
    other = start_worker(pipeline.id)
    eventually(finished(pipeline, 1), "another worker does it")
    assert outputs(pipeline) == {"one": 1}
    stop(other)


def test_a_second_signal_ends_it_now(start_worker: StartManage) -> None:
    worker = begun(start_worker, linger, LONG)
    worker.send_signal(signal.SIGTERM)
    hear(worker, "Stopping")
    worker.send_signal(signal.SIGTERM)
    assert end(worker, within=2) == 1
    assert "Second signal" in log(worker)


def test_a_second_signal_ends_it_now_even_if_its_loop_is_blocked(start_worker: StartManage) -> None:
    worker = begun(start_worker, block, LONG)
    worker.send_signal(signal.SIGTERM)
    eventually(lambda: "blocked" in log(worker), "it says that the loop is blocked")
    worker.send_signal(signal.SIGINT)
    assert end(worker, within=2) == 1


@pytest.mark.skipif(ON_SQLITE, reason="on SQLite there are no row locks")
def test_a_row_that_somebody_keeps_locked_does_not_keep_the_worker(start_worker: StartManage) -> None:
    worker = begun(start_worker, linger, 1.0, "--grace", "2")
    with locked(linger.Input.objects.all()):
        worker.send_signal(signal.SIGTERM)
        assert end(worker, within=2 + 4) == 0
    assert linger.Input.objects.get().attempt == 1


def test_sigterm_while_it_starts_ends_it(start_worker: StartManage) -> None:
    worker = start_worker("linger")
    ready(worker)
    worker.send_signal(signal.SIGTERM)
    assert end(worker, within=10) == 0
    assert "Traceback" not in log(worker)
