"""Wake-ups between real processes: found by whoever hosts the proxy, heard by anybody, and never needed."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import zmq
from django.conf import settings
from django.test import override_settings

from pipeteer_django.wakeups import publisher
from tests.conftest import StartManage
from tests.testapp.pipelines import double, quad

from .tools import configured, end, eventually, hear, log, outputs, ready, stop

pytestmark = pytest.mark.skipif(not settings.PIPETEER["WAKEUPS"], reason="this leg of the tests has no wake-ups")
SELDOM = {"POLL_INTERVAL": 600.0, "SWEEP_INTERVAL": 600.0}
"""With these only a wake-up can explain that something happens."""


@pytest.fixture
def seldom() -> Iterator[None]:
    """The test's own process polls as seldom."""
    with override_settings(PIPETEER=settings.PIPETEER | SELDOM):
        yield
    publisher.reset()


@pytest.mark.usefixtures("seldom")
def test_another_worker_takes_the_proxy_over(start_worker: StartManage) -> None:
    first = start_worker("quad", "double", env=configured(**SELDOM))
    ready(first)
    second = start_worker("quad", "double", env=configured(**SELDOM))
    ready(second)
    assert "hosted here" in log(first)
    assert "wake-ups at" in log(second)
    assert quad.enqueue(1).result(timeout=20) == 4

    first.kill()
    hear(second, "hosting it here", within=10)
    run = quad.enqueue(2)

    def woken() -> bool:
        quad.notify()  # again and again: everybody is just connecting to the new proxy, and a hint may be lost
        return run.look() is not None

    eventually(woken, "wake-ups travel again")
    stop(second)


@pytest.mark.usefixtures("seldom")
def test_a_proxy_of_its_own(start_manage: StartManage, start_worker: StartManage) -> None:
    """Across processes, and heard on the wire by those who know nothing of us."""
    proxy = start_manage("pipeteer_proxy")
    hear(proxy, "Wake-up proxy")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        listener = context.socket(zmq.SUB)
        listener.connect(settings.PIPETEER["SUB_URL"])
        listener.setsockopt(zmq.SUBSCRIBE, b"")
        workers = [start_worker(id, env=configured(**SELDOM)) for id in ("quad", "double")]
        ready(*workers)
        assert quad.enqueue(1, output="mine").result(timeout=20) == 4
        heard: set[bytes] = set()
        while not heard >= {b"quad", b"double", b"mine"}:
            assert listener.poll(10_000), f"heard no more than {heard}"
            heard.add(listener.recv())
    finally:
        context.destroy(linger=0)
    for worker in workers:
        stop(worker)
    proxy.send_signal(signal.SIGTERM)
    assert end(proxy) == 0


def test_all_ends_without_a_proxy(start_manage: StartManage, start_worker: StartManage) -> None:
    """Killed for good in the middle: polling finds everything."""
    proxy = start_manage("pipeteer_proxy")
    hear(proxy, "Wake-up proxy")
    workers = [start_worker(id, env=configured(HOST_PROXY=False)) for id in ("quad", "double")]
    ready(*workers)
    quad.enqueue_many(range(20))
    eventually(lambda: quad.Output.everything.exists(), "something is done")
    proxy.kill()
    quad.enqueue_many(range(20, 40))
    eventually(lambda: quad.Output.everything.count() == 40, "everything is done")
    assert sorted(outputs(quad).values()) == [4 * x for x in range(40)]
    assert not double.Input.objects.exists()
    for worker in workers:
        assert log(worker).count("No proxy answers") <= 2
        stop(worker)


def test_without_wake_ups_polls_find_all(start_worker: StartManage) -> None:
    worker = start_worker("double", env={"PIPETEER_TEST_WAKEUPS": "0"})
    ready(worker)
    for number in range(2):
        # The first may have come before the worker's first look at its queue, the second has not.
        run = double.enqueue(number)
        eventually(lambda run=run: run.look() is not None, "a poll finds the entry", within=10)
    stop(worker)
