"""Changes travel beside wake-ups: to those who ask for them, told calmly, and to nobody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pipeteer_django.signals import rows_changed
from pipeteer_django.wakeups import Proxy, close, flush, listen, publish, publisher, tell_changed

from .raw import Raw


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    close()
    yield
    close()


class Heard:
    """What a listener heard, and when."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.times: list[float] = []
        self._any = threading.Condition()

    def __call__(self, topic: str) -> None:
        with self._any:
            self.topics.append(topic)
            self.times.append(time.monotonic())
            self._any.notify_all()

    def wait(self, topic: str) -> None:
        with self._any:
            assert self._any.wait_for(lambda: topic in self.topics, 5), self.topics


def test_only_who_asks_hears_changes(proxy: Proxy) -> None:
    wakes, changes = Heard(), Heard()
    with listen(wakes), listen(changes, changes=True):
        tell_changed(["quad", "double"])
        publish("quad")
        wakes.wait("quad")
        changes.wait("quad")
        changes.wait("double")
    assert wakes.topics == ["quad"]
    assert set(changes.topics) == {"quad", "double"}


def test_nothing_is_sent_while_nobody_asks(proxy: Proxy, raw: Raw) -> None:
    """Not even to those who hear everything, as all workers do."""
    wakes = Heard()
    with listen(wakes):
        publish("quad")
        wakes.wait("quad")
        tell_changed(["quad"])
        assert flush(5)
        time.sleep(publisher.SETTLE)
        for _ in range(1000):
            tell_changed(["quad"])
        running: Any = publisher._publisher
        assert not running._pending  # dropped at once: it costs no thread a wake-up
        publish("double")
        wakes.wait("double")
    assert wakes.topics == ["quad", "double"]


def test_who_asks_later_hears_what_comes_later(proxy: Proxy) -> None:
    wakes, changes = Heard(), Heard()
    with listen(wakes):
        publish("quad")
        wakes.wait("quad")
        time.sleep(publisher.SETTLE)
        for _ in range(2):  # it can stop asking, and ask again
            with listen(changes, changes=True):
                deadline = time.monotonic() + 5
                while "quad" not in changes.topics:
                    assert time.monotonic() < deadline
                    tell_changed(["quad"])
                    time.sleep(0.01)
            changes.topics.clear()


def test_a_flood_is_told_calmly_and_its_end_is_told(proxy: Proxy) -> None:
    changes = Heard()
    with listen(changes, changes=True):
        tell_changed(["quad"])
        changes.wait("quad")
        began = time.monotonic()
        count = 0
        while time.monotonic() < began + 1:
            tell_changed(["quad"])
            count += 1
        ended = time.monotonic()
        time.sleep(0.5)
    assert count > 1000
    assert len(changes.topics) <= 13
    assert changes.times[-1] > ended - 0.01
    assert changes.times[-1] < ended + 0.3


def test_in_this_process_a_signal_says_it() -> None:
    heard: list[Any] = []

    def receive(pipelines: list[str], **kwargs: Any) -> None:
        heard.append(pipelines)

    rows_changed.connect(receive)
    try:
        tell_changed({"quad", "double"})
        tell_changed([])
    finally:
        rows_changed.disconnect(receive)
    assert heard == [["double", "quad"]]
