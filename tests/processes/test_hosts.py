"""Wake-ups between hosts, with real workers: keys that are on the list, and those that are not. Work never depends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from django.conf import settings
from django.test import override_settings

from pipeteer_django.wakeups import answers, close
from tests.conftest import StartManage
from tests.testapp.pipelines import double, quad
from tests.wakeups.hosts import Hosts, outer_urls
from tests.wakeups.raw import Raw, Urls

from .test_wakeups import SELDOM
from .tools import configured, end, eventually, hear, log, ready, stop

pytestmark = pytest.mark.skipif(not settings.PIPETEER["WAKEUPS"], reason="this leg of the tests has no wake-ups")


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path)


@pytest.fixture
def urls() -> Urls:
    return outer_urls()


def of(urls: Urls, hosts: Hosts, name: str) -> dict[str, Any]:
    """What PIPETEER says on that host."""
    return {**urls.settings(), "CURVE_KEYS": str(hosts.folder(name))}


@contextmanager
def on_host(hosts: Hosts, urls: Urls, name: str, **more: Any) -> Iterator[None]:
    """The test's own process is there."""
    with override_settings(PIPETEER=settings.PIPETEER | of(urls, hosts, name) | more):
        yield
        close()


def test_hosts_wake_each_other(hosts: Hosts, urls: Urls, start_worker: StartManage) -> None:
    """Nothing polls. The worker on one host hosts the proxy, the other has not the secret and does not."""
    queue = start_worker("quad", env=configured(**of(urls, hosts, "queue"), **SELDOM))
    ready(queue)
    assert "hosted here" in log(queue)
    web = start_worker("double", env=configured(**of(urls, hosts, "web"), **SELDOM))
    ready(web)
    assert f"wake-ups at {urls.sub}" in log(web)
    with on_host(hosts, urls, "web", **SELDOM):
        assert answers(20)
        assert quad.enqueue(1, key="task").result(timeout=20) == 4
    stop(web)
    stop(queue)


def test_no_host_without_the_secret(hosts: Hosts, urls: Urls, start_worker: StartManage) -> None:
    web = start_worker("double", env=configured(**of(urls, hosts, "web")))
    ready(web)
    assert "none answers, polling" in log(web)
    with on_host(hosts, urls, "web"):
        assert not answers(0.3)
        assert double.enqueue(1).result(timeout=20) == 2
    stop(web)


@pytest.mark.parametrize("name", ["stranger", "lost"])
def test_a_stranger_wakes_nobody_and_its_work_is_done_by_polling(
    hosts: Hosts, urls: Urls, start_manage: StartManage, start_worker: StartManage, name: str
) -> None:
    proxy = start_manage("pipeteer_proxy", env=configured(**of(urls, hosts, "queue")))
    hear(proxy, "Wake-up proxy")
    stranger = start_worker("quad", env=configured(**of(urls, hosts, name)))
    ready(stranger)
    assert "none answers, polling" in log(stranger)
    deaf = start_worker("double", env=configured(**of(urls, hosts, "web"), **SELDOM))
    ready(deaf)
    run = quad.enqueue(1, key="task")  # by this process's own proxy, which is another
    eventually(lambda: double.Input.objects.exists(), "the stranger polls, and calls double")
    assert run.look() is None
    with on_host(hosts, urls, "web", **SELDOM):
        assert answers(20)

        def woken() -> bool:
            double.notify()
            return run.look() is not None

        eventually(woken, "a host on the list wakes the other, and the stranger finds each result by polling")
    assert run.result(timeout=20) == 4
    for process in (stranger, deaf):
        stop(process)


def test_without_keys_it_refuses_to_start(urls: Urls, start_manage: StartManage, start_worker: StartManage) -> None:
    """The worker and the proxy: with the setting, the cause and the command."""
    for process in (
        start_worker(env=configured(**urls.settings())),
        start_manage("pipeteer_proxy", env=configured(**urls.settings())),
    ):
        assert end(process) == 1
        assert "pipeteer_keys" in log(process)
        assert urls.pub in log(process)
        assert "CURVE_KEYS" in log(process)


def test_a_flood_on_the_wire_drowns_no_work(hosts: Hosts, urls: Urls, start_worker: StartManage) -> None:
    """From a host on the list: what it says is no secret, and it says it too often. Nothing polls."""
    worker = start_worker("quad", "double", env=configured(**of(urls, hosts, "queue"), **SELDOM))
    ready(worker)
    raw = Raw(urls)
    try:
        flood = raw.socket(zmq.XPUB)
        hosts.equip(flood, "web")
        flood.connect(urls.pub)
        while flood.recv() != b"\x01":
            pass
        with on_host(hosts, urls, "web", **SELDOM):
            for number in range(20):
                run = quad.enqueue(number)
                for forged in range(5000):
                    flood.send(b"double" if forged % 2 else b"forged-%d" % forged)
                assert run.result(timeout=20) == 4 * number
    finally:
        raw.context.destroy(linger=0)
    stop(worker)
